#include "file/policy_spec.h"

#include "common/json_text.h"
#include "common/limits.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <set>

namespace actquant {
namespace {

constexpr std::array<std::string_view, 4> stage_names = {"vision", "prefix", "denoise", "decode"};

// A whole number that a file may choose freely between two bounds.
void check_range(const std::string& key, int64_t value, int64_t least, int64_t most,
                 Problems& problems) {
    if (value < least || value > most) {
        problems.add(key + " is " + std::to_string(value) + ", expected " + std::to_string(least) +
                     " to " + std::to_string(most));
    }
}

void check_finite(const std::string& key, double value, Problems& problems) {
    if (!std::isfinite(value)) {
        problems.add(key + " is " + std::to_string(value) + ", expected a finite number");
    }
}

// Names are shown.
void check_name(const std::string& key, const std::string& name, Problems& problems) {
    if (name.size() > limits::name_bytes || printable(name, name.size()) != name) {
        problems.add(key + " has a name of more than " + std::to_string(limits::name_bytes) +
                     " bytes or with control characters, '" + name + "'");
    }
}

void check_names(const std::string& key, const std::vector<std::string>& names, int64_t most,
                 Problems& problems) {
    check_range("the number of " + key, static_cast<int64_t>(names.size()), 0, most, problems);
    for (const std::string& name : names) {
        check_name(key, name, problems);
    }
}

void check_distinct(const std::string& key, const std::vector<std::string>& names,
                    Problems& problems) {
    if (std::set<std::string>(names.begin(), names.end()).size() < names.size()) {
        problems.add(key + " names something twice");
    }
}

void check_json(const std::string& key, const std::string& text, Problems& problems) {
    if (std::string problem = what_json_lacks(text); !problem.empty()) {
        problems.add(key + ": " + problem);
    }
}

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
    check_names(prefix + ".names", spec.names, limits::vector_elements, problems);
    check_range(prefix + ".padded_dim", spec.padded_dim, 0, limits::vector_elements, problems);
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
    auto is_finite = [](float x) { return std::isfinite(x); };
    if (!std::all_of(table.begin(), table.end(), is_finite)) {
        problems.add("actquant.sampler.coefficients are not all finite");
    }
    if (!std::all_of(spec.timesteps.begin(), spec.timesteps.end(), is_finite)) {
        problems.add("actquant.sampler.timesteps are not all finite");
    }
    check_range("the number of actquant.sampler.timesteps",
                static_cast<int64_t>(spec.timesteps.size()), 0, limits::sampler_steps, problems);
    for (size_t k = 0; k < table.size(); k += sampler_columns) {
        const float* row = &table[k];
        spec.steps.push_back({row[0], row[1], row[2], row[3], row[4], row[5], row[6], row[7]});
        if (spec.steps.back().clip < 0) {
            problems.add("actquant.sampler.coefficients: the clip of step " +
                         std::to_string(k / sampler_columns) + " is negative");
        }
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
    std::vector<std::string> stages = keys.strings("actquant.stages");
    check_names("actquant.stages", stages, static_cast<int64_t>(stage_names.size()), problems);
    check_distinct("actquant.stages", stages, problems);
    stages.resize(std::min(stages.size(), stage_names.size()));
    for (const std::string& stage : stages) {
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
        if (std::find(stage_names.begin(), stage_names.end(), stage) == stage_names.end()) {
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
    check_range("actquant.tokenizer.max_length", prompt.max_length, 0, limits::prompt_tokens,
                problems);
    check_range("actquant.tokenizer.pad_id", prompt.pad_id, 0, limits::token_id, problems);
    check_range("actquant.prompt.state_bins", prompt.state_bins, 0, limits::vector_elements,
                problems);
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

void check_image_size(const std::string& prefix, const std::string& which, int64_t height,
                      int64_t width, Problems& problems) {
    std::string key = prefix + "." + which;
    check_range(key + "height", height, 1, limits::image_side, problems);
    check_range(key + "width", width, 1, limits::image_side, problems);
    if (height * width > limits::image_pixels) {
        problems.add(key + "height times width is above " + std::to_string(limits::image_pixels));
    }
}

void check_values(const PolicySpec& spec, Problems& problems) {
    if (spec.optional_cameras > static_cast<int64_t>(spec.cameras.size())) {
        problems.add("actquant.cameras is shorter than actquant.cameras.optional");
    }
    check_names("actquant.cameras", spec.cameras, limits::cameras, problems);
    check_distinct("actquant.cameras", spec.cameras, problems);
    check_range("actquant.observation.steps", spec.observation_steps, 1, limits::observation_steps,
                problems);
    if (!spec.cameras.empty()) {
        check_image_size("actquant.image", "", spec.image.height, spec.image.width, problems);
        check_image_size("actquant.image", "source_", spec.image_source_height,
                         spec.image_source_width, problems);
        Shape pictures = {spec.image_count(), spec.image_source_height, spec.image_source_width};
        if (element_count(pictures) > limits::value_elements) {
            problems.add("the images of one observation have more than " +
                         std::to_string(limits::value_elements) + " pixels");
        }
    }
    check_finite("actquant.image.scale", spec.image.scale, problems);
    check_finite("actquant.image.offset", spec.image.offset, problems);
    check_range("actquant.action.chunk_length", spec.chunk_length, 1, limits::vector_elements,
                problems);
    check_range("actquant.noise.rows", spec.sampler.noise_rows, 0, limits::vector_elements,
                problems);
    check_range("actquant.noise.dim", spec.sampler.noise_dim, 0, limits::vector_elements, problems);
    if (element_count(spec.sampler.noise_shape()) > limits::host_elements) {
        problems.add("the noise " + to_string(spec.sampler.noise_shape()) + " has more than " +
                     std::to_string(limits::host_elements) + " elements");
    }
    if (!(spec.control_rate_hz > 0 && spec.control_rate_hz <= limits::control_rate_hz)) {
        problems.add("actquant.control_rate_hz is " + std::to_string(spec.control_rate_hz) +
                     ", expected above 0, at most " +
                     std::to_string(std::lrint(limits::control_rate_hz)));
    }
    if (!(spec.normalization_eps >= 0 && std::isfinite(spec.normalization_eps))) {
        problems.add("actquant.normalization.eps is " + std::to_string(spec.normalization_eps) +
                     ", expected a finite number from 0");
    }
    check_json("actquant.provenance", spec.provenance, problems);
    check_json("actquant.allocation", spec.allocation, problems);
    check_json("actquant.golden", spec.golden, problems);
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
    check_name("general.name", spec.name, problems);
    check_name("actquant.policy.family", spec.family, problems);
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
        if (!(spec.state_clip > 0 && std::isfinite(spec.state_clip))) {
            problems.add("actquant.state.clip must be positive and finite");
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
