#include "file/policy_spec.h"

#include <algorithm>
#include <cmath>

namespace actquant {
namespace {

// No policy's prompt is nearly as long; the graphs of a damaged file's would fill the memory.
constexpr int64_t longest_prompt = 1 << 16;

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

SamplerSpec read_sampler(KeyReader& keys, Problems& problems) {
    SamplerSpec spec;
    spec.noise_rows = keys.u32("actquant.noise.rows");
    spec.noise_dim = keys.u32("actquant.noise.dim");
    spec.timesteps = keys.floats("actquant.sampler.timesteps");
    std::vector<float> table = keys.floats("actquant.sampler.coefficients");
    if (table.size() != sampler_columns * spec.timesteps.size()) {
        problems.add("actquant.sampler.coefficients has " + std::to_string(table.size()) +
                     " elements, expected " + std::to_string(sampler_columns) +
                     " for each of the " + std::to_string(spec.timesteps.size()) + " timesteps");
        return spec;
    }
    if (std::any_of(table.begin(), table.end(), [](float x) { return !std::isfinite(x); })) {
        problems.add("actquant.sampler.coefficients are not all finite");
    }
    for (size_t k = 0; k < table.size(); k += sampler_columns) {
        const float* row = &table[k];
        spec.steps.push_back({row[0], row[1], row[2], row[3], row[4], row[5], row[6], row[7]});
    }
    return spec;
}

void read_image(KeyReader& keys, Problems& problems, PolicySpec& spec) {
    spec.image.height = keys.u32("actquant.image.height");
    spec.image.width = keys.u32("actquant.image.width");
    spec.image_steps = keys.strings("actquant.image.steps");
    try {
        spec.image.steps = parse_image_steps(spec.image_steps);
    } catch (const FileError& error) {
        problems.add(error.what());
    }
    spec.image.scale = keys.f32("actquant.image.scale");
    spec.image.offset = keys.f32("actquant.image.offset");
    spec.image_source_height = keys.u32("actquant.image.source_height");
    spec.image_source_width = keys.u32("actquant.image.source_width");
}

void read_prompt(KeyReader& keys, PolicySpec& spec) {
    spec.has_language = keys.has("actquant.tokenizer.json");
    if (spec.has_language) {
        spec.tokenizer_json = keys.view("actquant.tokenizer.json");
    }
    spec.prompt.text_template = keys.string("actquant.prompt.template");
    spec.prompt.task_steps = keys.strings("actquant.prompt.task_steps");
    spec.prompt.state_bins = keys.u32("actquant.prompt.state_bins");
    spec.prompt.min_length = keys.u32("actquant.tokenizer.min_length");
    spec.prompt.max_length = keys.u32("actquant.tokenizer.max_length");
    spec.prompt.pad_id = keys.u32("actquant.tokenizer.pad_id");
    spec.prompt.suffix = keys.string("actquant.tokenizer.suffix");
    spec.prompt.suffix_ids = keys.u32s("actquant.tokenizer.suffix_ids");
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
        for (const std::string& name : tensors_used(spec.programs[stage].structure())) {
            if (file.find_tensor(name) == nullptr) {
                missing.emplace(name, stage);
            }
        }
    }
    for (const auto& [name, stage] : missing) {
        problems.add("the tensor " + name + " of stage '" + stage + "' is missing");
    }
}

void check_driver(const PolicySpec& spec, Problems& problems) {
    const SamplerSpec& sampler = spec.sampler;
    bool has_noise = sampler.noise_rows > 0 && sampler.noise_dim > 0;
    if (spec.driver == "one_shot") {
        if (!sampler.steps.empty() || sampler.noise_rows > 0 || sampler.noise_dim > 0) {
            problems.add("the driver one_shot has no actquant.sampler keys and noise of 0 x 0");
        }
    } else if (spec.driver == "sampling") {
        if (sampler.steps.empty()) {
            problems.add("the driver sampling needs actquant.sampler.timesteps and .coefficients");
        }
        if (!has_noise) {
            problems.add("the driver sampling needs positive actquant.noise.rows and .dim");
        }
    } else {
        problems.add("actquant.driver is '" + spec.driver +
                     "'; this runtime has one_shot and sampling");
    }
}

void check_stage_names(const PolicySpec& spec, Problems& problems) {
    bool samples = spec.driver == "sampling";
    auto expect = [&](const std::string& stage, bool is_run, bool is_needed) {
        bool exists = spec.programs.count(stage) > 0;
        if (is_needed && !exists) {
            problems.add("actquant.stages lacks the stage '" + stage + "'");
        } else if (!is_run && exists) {
            problems.add("nothing runs the stage '" + stage + "'");
        }
    };
    expect("vision", !spec.cameras.empty(), !spec.cameras.empty());
    expect("prefix", true, true);
    expect("denoise", samples, samples);
    expect("decode", samples, false);
    for (const auto& [stage, program] : spec.programs) {
        if (stage != "vision" && stage != "prefix" && stage != "denoise" && stage != "decode") {
            problems.add("nothing runs the stage '" + stage + "'");
        }
    }
}

void check_language(const PolicySpec& spec, Problems& problems) {
    const PromptSpec& prompt = spec.prompt;
    if (spec.has_language && (prompt.max_length < 1 || prompt.min_length > prompt.max_length)) {
        problems.add("actquant.tokenizer.min_length and .max_length are " +
                     std::to_string(prompt.min_length) + " and " +
                     std::to_string(prompt.max_length));
    }
    if (prompt.max_length > longest_prompt) {
        problems.add("actquant.tokenizer.max_length is " + std::to_string(prompt.max_length) +
                     ", more than this runtime's " + std::to_string(longest_prompt));
    }
    try {
        check_prompt(prompt);
    } catch (const FileError& error) {
        problems.add(error.what());
    }
    if (!spec.has_language && prompt.max_length > 0) {
        problems.add("actquant.tokenizer.max_length is " + std::to_string(prompt.max_length) +
                     " but there is no actquant.tokenizer.json");
    }
}

void check_values(const PolicySpec& spec, Problems& problems) {
    if (spec.optional_cameras > static_cast<int64_t>(spec.cameras.size())) {
        problems.add("actquant.cameras is shorter than actquant.cameras.optional");
    }
    if (!spec.cameras.empty() && (spec.image.height < 1 || spec.image.width < 1)) {
        problems.add("actquant.image.height and .width must be positive");
    }
    if (spec.observation_steps < 1) {
        problems.add("actquant.observation.steps must be positive");
    }
    if (spec.action.names.empty()) {
        problems.add("actquant.action.names is empty");
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
}

} // namespace

int64_t SamplerSpec::fresh_count() const {
    return std::count_if(steps.begin(), steps.end(),
                         [](const SamplerStep& step) { return step.fresh != 0; });
}

Shape SamplerSpec::noise_shape() const {
    if (steps.empty()) {
        return {0};
    }
    int64_t fresh = fresh_count();
    return fresh == 0 ? Shape{noise_rows, noise_dim} : Shape{1 + fresh, noise_rows, noise_dim};
}

int64_t PolicySpec::min_prompt_length() const {
    // A prompt has at least one token, even where nothing is padded.
    return has_language ? std::max<int64_t>(prompt.min_length, 1) : 0;
}

int64_t PolicySpec::max_prompt_length() const {
    return has_language ? prompt.max_length : 0;
}

PolicySpec read_policy_spec(const ModelFile& file) {
    Problems problems;
    KeyReader keys(file, problems);
    PolicySpec spec;
    spec.name = keys.string("general.name");
    spec.family = keys.string("actquant.policy.family");
    spec.parameter_count = keys.u64("actquant.policy.parameter_count");
    spec.driver = keys.string("actquant.driver");
    spec.sampler = read_sampler(keys, problems);
    spec.cameras = keys.strings("actquant.cameras");
    spec.optional_cameras = keys.u32("actquant.cameras.optional");
    spec.observation_steps = keys.u32("actquant.observation.steps");
    read_image(keys, problems, spec);
    read_prompt(keys, spec);
    spec.state = read_vector(keys, "actquant.state", problems);
    spec.action = read_vector(keys, "actquant.action", problems);
    if (keys.has("actquant.state.clip")) {
        spec.state_clip = keys.f32("actquant.state.clip");
        if (!(spec.state_clip > 0)) {
            problems.add("actquant.state.clip must be positive");
        }
    }
    spec.normalization_eps = keys.f32("actquant.normalization.eps");
    spec.chunk_length = keys.u32("actquant.action.chunk_length");
    spec.steps_per_chunk = keys.u32("actquant.action.steps_per_chunk");
    spec.control_rate_hz = keys.f32("actquant.control_rate_hz");
    spec.provenance = keys.string("actquant.provenance");
    spec.allocation = keys.string("actquant.allocation");
    spec.golden = keys.string("actquant.golden");
    read_programs(file, keys, problems, spec);
    if (problems.empty()) {
        check_driver(spec, problems);
        check_stage_names(spec, problems);
        check_language(spec, problems);
        check_values(spec, problems);
    }
    problems.throw_if_any("'" + file.path() + "' is not a valid policy:");
    return spec;
}

} // namespace actquant
