#include "api/session.h"
#include "common/json.h"

namespace actquant {
namespace {

void write_vector(JsonWriter& json, const VectorSpec& spec) {
    json.member("names", spec.names);
    json.member("mean", spec.mean);
    json.member("std", spec.standard_deviation);
    json.member("padded_dim", spec.padded_dim);
}

void write_sampler(JsonWriter& json, const SamplerSpec& spec) {
    json.member("noise_shape", spec.noise_shape());
    json.key("sampler");
    if (spec.steps.empty()) {
        json.null();
        return;
    }
    json.begin_object();
    json.member("timesteps", spec.timesteps);
    json.key("coefficients");
    json.begin_array();
    for (const SamplerStep& step : spec.steps) {
        json.value(std::vector<float>{step.from_x, step.from_output, step.clip, step.next_from_x0,
                                      step.next_from_x, step.next_from_output, step.fresh,
                                      step.initial});
    }
    json.end_array();
    json.end_object();
}

void write_image(JsonWriter& json, const PolicySpec& spec) {
    json.key("image");
    json.begin_object();
    json.member("height", spec.image.height);
    json.member("width", spec.image.width);
    json.member("source_height", spec.image_source_height);
    json.member("source_width", spec.image_source_width);
    json.member("steps", spec.image_steps);
    json.member("scale", spec.image.scale);
    json.member("offset", spec.image.offset);
    json.end_object();
}

void write_prompt(JsonWriter& json, const PolicySpec& spec) {
    json.key("prompt");
    if (!spec.has_language) {
        json.null();
        return;
    }
    const PromptSpec& prompt = spec.prompt;
    json.begin_object();
    json.member("template", prompt.text_template);
    json.member("task_steps", prompt.task_steps);
    json.member("state_bins", prompt.state_bins);
    json.member("min_length", prompt.min_length);
    json.member("max_length", prompt.max_length);
    json.member("pad_id", prompt.pad_id);
    json.member("suffix", prompt.suffix);
    json.member("suffix_ids", prompt.suffix_ids);
    json.end_object();
}

void write_vectors(JsonWriter& json, const PolicySpec& spec) {
    json.key("state");
    json.begin_object();
    write_vector(json, spec.state);
    json.key("clip");
    if (spec.state_clip > 0) {
        json.value(spec.state_clip);
    } else {
        json.null();
    }
    json.end_object();
    json.key("action");
    json.begin_object();
    write_vector(json, spec.action);
    json.member("chunk_length", spec.chunk_length);
    json.member("steps_per_chunk", spec.steps_per_chunk);
    json.end_object();
    json.member("normalization_eps", spec.normalization_eps);
}

void write_policy(JsonWriter& json, const PolicySpec& spec) {
    json.member("name", spec.name);
    json.member("family", spec.family);
    json.member("parameter_count", spec.parameter_count);
    json.member("driver", spec.driver);
    write_sampler(json, spec.sampler);
    json.member("supports_guidance", why_not_guided(spec).empty());
    json.member("cameras", spec.cameras);
    json.member("optional_cameras", spec.optional_cameras);
    json.member("observation_steps", spec.observation_steps);
    write_image(json, spec);
    write_prompt(json, spec);
    write_vectors(json, spec);
    json.member("control_rate_hz", spec.control_rate_hz);
    json.member("provenance", spec.provenance);
    json.member("allocation", spec.allocation);
    json.member("golden", spec.golden);
}

void write_sizes(JsonWriter& json, const std::vector<Size>& sizes) {
    json.begin_array();
    for (const Size& size : sizes) {
        if (size.factor == 0) {
            json.value(size.constant);
        } else {
            json.value(to_string(size));
        }
    }
    json.end_array();
}

void write_values(JsonWriter& json, const std::string& name,
                  const std::vector<StageValue>& values) {
    json.key(name);
    json.begin_array();
    for (const StageValue& value : values) {
        json.begin_object();
        json.member("name", value.name);
        json.member("dtype", dtype_name(value.dtype));
        json.key("shape");
        write_sizes(json, value.sizes);
        json.end_object();
    }
    json.end_array();
}

void write_stages(JsonWriter& json, const PolicySpec& spec, const Stages& stages) {
    json.key("stages");
    json.begin_object();
    for (const auto& [stage, program] : spec.programs) {
        json.key(stage);
        json.begin_object();
        write_values(json, "inputs", stages.inputs(stage));
        write_values(json, "outputs", stages.outputs(stage));
        json.end_object();
    }
    json.end_object();
}

void write_memory(JsonWriter& json, const MemoryUse& memory) {
    json.key("memory");
    json.begin_object();
    json.member("header_bytes", memory.header_bytes);
    json.member("weights_bytes", memory.weights_bytes);
    json.member("tables_bytes", memory.tables_bytes);
    json.member("compute_bytes", memory.compute_bytes);
    json.member("device_bytes", memory.device_bytes);
    json.end_object();
}

void write_tensors(JsonWriter& json, const ModelFile& file) {
    json.key("tensors");
    json.begin_array();
    for (const auto& [name, tensor] : file.tensors()) {
        json.begin_object();
        json.member("name", name);
        json.member("type", ggml_type_name(tensor.descriptor->type));
        json.member("shape", tensor.shape);
        json.member("bytes", ggml_nbytes(tensor.descriptor));
        json.end_object();
    }
    json.end_array();
}

} // namespace

std::string Session::describe() const {
    JsonWriter json;
    json.begin_object();
    write_policy(json, spec);
    write_stages(json, spec, stages);
    write_memory(json, stages.memory());
    write_tensors(json, file);
    json.member("file_bytes", file.size_bytes());
    json.member("threads", threads());
    json.member("kernels", isa_name(backend.isa()));
    json.member("device", backend.where().name);
    json.member("device_description", backend.where().description);
    const std::set<std::string>& left = stages.operators_on_cpu();
    json.member("operators_on_cpu", std::vector<std::string>(left.begin(), left.end()));
    json.end_object();
    return json.text();
}

} // namespace actquant
