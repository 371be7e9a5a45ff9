#include "json.h"
#include "session.h"

namespace actquant {
namespace {

void write_vector(JsonWriter& json, const VectorSpec& spec) {
    json.member("names", spec.names);
    json.member("mean", spec.mean);
    json.member("std", spec.standard_deviation);
    json.member("padded_dim", spec.padded_dim);
}

void write_policy(JsonWriter& json, const PolicySpec& spec) {
    json.member("name", spec.name);
    json.member("family", spec.family);
    json.member("parameter_count", spec.parameter_count);
    json.member("driver", spec.driver);
    json.member("num_steps", spec.num_steps);
    json.member("cameras", spec.cameras);
    json.member("optional_cameras", spec.optional_cameras);
    json.key("image");
    json.begin_object();
    json.member("height", spec.image.height);
    json.member("width", spec.image.width);
    json.member("resize", !spec.image.steps.empty() ? "pad" : "none");
    json.member("scale", spec.image.scale);
    json.member("offset", spec.image.offset);
    json.end_object();
    json.key("tokenizer");
    json.begin_object();
    json.member("max_length", spec.max_prompt_length);
    json.member("pad_id", spec.pad_token);
    json.member("suffix", spec.prompt_suffix);
    json.end_object();
    json.key("state");
    json.begin_object();
    write_vector(json, spec.state);
    json.end_object();
    json.key("action");
    json.begin_object();
    write_vector(json, spec.action);
    json.member("chunk_length", spec.chunk_length);
    json.member("steps_per_chunk", spec.steps_per_chunk);
    json.end_object();
    json.member("normalization_eps", spec.normalization_eps);
    json.member("control_rate_hz", spec.control_rate_hz);
    json.member("provenance", spec.provenance);
    json.member("allocation", spec.allocation);
    json.member("golden", spec.golden);
}

void write_values(JsonWriter& json, const std::string& name, const std::vector<ValueInfo>& infos) {
    json.key(name);
    json.begin_array();
    for (const ValueInfo& info : infos) {
        json.begin_object();
        json.member("name", info.name);
        json.member("dtype", dtype_name(info.dtype));
        json.member("shape", info.shape);
        json.end_object();
    }
    json.end_array();
}

void write_stages(JsonWriter& json, const FlowMatching& driver) {
    json.key("stages");
    json.begin_object();
    for (const std::string& stage : driver.stage_names()) {
        json.key(stage);
        json.begin_object();
        write_values(json, "inputs", driver.stage_inputs(stage));
        write_values(json, "outputs", driver.stage_outputs(stage));
        json.end_object();
    }
    json.end_object();
}

void write_tensors(JsonWriter& json, const ModelFile& file) {
    json.key("tensors");
    json.begin_array();
    for (const auto& [name, tensor] : file.tensors()) {
        json.begin_object();
        json.member("name", name);
        json.member("type", ggml_type_name(tensor.tensor->type));
        json.member("shape", tensor.shape);
        json.member("bytes", ggml_nbytes(tensor.tensor));
        json.end_object();
    }
    json.end_array();
}

} // namespace

std::string Session::describe() const {
    JsonWriter json;
    json.begin_object();
    write_policy(json, spec);
    write_stages(json, driver);
    write_tensors(json, file);
    json.member("file_bytes", file.size_bytes());
    json.member("threads", threads());
    json.end_object();
    return json.text();
}

} // namespace actquant
