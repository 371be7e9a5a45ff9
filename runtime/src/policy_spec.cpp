#include "policy_spec.h"

#include <cmath>

namespace actquant {
namespace {

VectorSpec read_vector(KeyReader& keys, const std::string& prefix, Problems& problems) {
    VectorSpec spec;
    spec.names = keys.strings(prefix + ".names");
    spec.mean = keys.floats(prefix + ".mean");
    spec.standard_deviation = keys.floats(prefix + ".std");
    spec.padded_dim = keys.u32(prefix + ".padded_dim");
    if (spec.mean.size() != spec.names.size() ||
        spec.standard_deviation.size() != spec.names.size()) {
        problems.add(prefix + ": names, mean and std have " + std::to_string(spec.names.size()) +
                     ", " + std::to_string(spec.mean.size()) + " and " +
                     std::to_string(spec.standard_deviation.size()) + " elements");
    }
    if (spec.padded_dim < spec.dim()) {
        problems.add(prefix + ".padded_dim is below the number of names");
    }
    for (size_t k = 0; k < std::min(spec.mean.size(), spec.standard_deviation.size()); k++) {
        if (!std::isfinite(spec.mean[k]) || !std::isfinite(spec.standard_deviation[k])) {
            problems.add(prefix + ": the statistics of element " + std::to_string(k) +
                         " are not finite");
        }
    }
    return spec;
}

ImageSpec read_image(KeyReader& keys, Problems& problems) {
    ImageSpec spec;
    spec.height = keys.u32("actquant.image.height");
    spec.width = keys.u32("actquant.image.width");
    spec.scale = keys.f32("actquant.image.scale");
    spec.offset = keys.f32("actquant.image.offset");
    std::string resize = keys.string("actquant.image.resize");
    if (resize == "pad") {
        spec.steps = parse_image_steps({"resize_pad height=" + std::to_string(spec.height) +
                                        " width=" + std::to_string(spec.width) +
                                        " filter=bilinear antialias=0 round=0 anchor=end value=0"});
    }
    if (resize != "pad" && resize != "none") {
        problems.add("actquant.image.resize is '" + resize + "', expected none or pad");
    }
    if (spec.height < 1 || spec.width < 1) {
        problems.add("actquant.image.height and .width must be positive");
    }
    return spec;
}

void read_programs(const ModelFile& file, KeyReader& keys, Problems& problems, PolicySpec& spec) {
    std::map<std::string, std::string> missing; // tensor → the first stage that wants it
    for (const std::string& stage : keys.strings("actquant.stages")) {
        std::string text = keys.string("actquant.graph." + stage);
        if (text.empty()) {
            continue;
        }
        try {
            spec.programs[stage] = parse_program(stage, text);
        } catch (const FileError& error) {
            problems.add(error.what());
            continue;
        }
        for (const std::string& name : tensors_used(spec.programs[stage])) {
            if (file.find_tensor(name) == nullptr) {
                missing.emplace(name, stage);
            }
        }
    }
    for (const auto& [name, stage] : missing) {
        problems.add("the tensor " + name + " of stage '" + stage + "' is missing");
    }
}

void check_values(const PolicySpec& spec, Problems& problems) {
    if (spec.num_steps < 1) {
        problems.add("actquant.driver.num_steps must be positive");
    }
    if (spec.cameras.empty() || spec.optional_cameras > static_cast<int64_t>(spec.cameras.size())) {
        problems.add("actquant.cameras is empty or shorter than actquant.cameras.optional");
    }
    if (spec.steps_per_chunk < 1 || spec.steps_per_chunk > spec.chunk_length) {
        problems.add("actquant.action.steps_per_chunk must be from 1 to chunk_length");
    }
    for (const VectorSpec* vector : {&spec.state, &spec.action}) {
        for (int64_t k = 0; k < vector->dim(); k++) {
            if (!(vector->standard_deviation[k] + spec.normalization_eps > 0)) {
                problems.add("std + eps of '" + vector->names[k] + "' is not positive");
            }
        }
    }
    if (spec.max_prompt_length < 1) {
        problems.add("actquant.tokenizer.max_length must be positive");
    }
}

} // namespace

PolicySpec read_policy_spec(const ModelFile& file) {
    Problems problems;
    KeyReader keys(file, problems);
    PolicySpec spec;
    spec.name = keys.string("general.name");
    spec.family = keys.string("actquant.policy.family");
    spec.parameter_count = keys.u64("actquant.policy.parameter_count");
    spec.driver = keys.string("actquant.driver");
    spec.num_steps = keys.u32("actquant.driver.num_steps");
    spec.cameras = keys.strings("actquant.cameras");
    spec.optional_cameras = keys.u32("actquant.cameras.optional");
    spec.image = read_image(keys, problems);
    spec.tokenizer_json = keys.string("actquant.tokenizer.json");
    spec.max_prompt_length = keys.u32("actquant.tokenizer.max_length");
    spec.pad_token = keys.u32("actquant.tokenizer.pad_id");
    spec.prompt_suffix = keys.string("actquant.tokenizer.suffix");
    spec.state = read_vector(keys, "actquant.state", problems);
    spec.action = read_vector(keys, "actquant.action", problems);
    spec.normalization_eps = keys.f32("actquant.normalization.eps");
    spec.chunk_length = keys.u32("actquant.action.chunk_length");
    spec.steps_per_chunk = keys.u32("actquant.action.steps_per_chunk");
    spec.control_rate_hz = keys.f32("actquant.control_rate_hz");
    spec.provenance = keys.string("actquant.provenance");
    spec.allocation = keys.string("actquant.allocation");
    spec.golden = keys.string("actquant.golden");
    read_programs(file, keys, problems, spec);
    if (problems.empty()) {
        check_values(spec, problems);
    }
    problems.throw_if_any("'" + file.path() + "' is not a valid policy:");
    return spec;
}

} // namespace actquant
