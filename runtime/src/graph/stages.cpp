#include "graph/stages.h"

#include "common/error.h"
#include "graph/stage_contract.h"

#include <algorithm>

namespace actquant {
namespace {

std::map<std::string, Array> run_alone(Stage& stage,
                                       const std::map<std::string, ArrayView>& inputs) {
    for (const auto& [name, value] : inputs) {
        stage.set_input(name, value);
    }
    stage.run();
    std::map<std::string, Array> outputs;
    for (const ValueInfo& info : stage.outputs()) {
        outputs[info.name] = stage.output(info.name);
    }
    return outputs;
}

} // namespace

Stages::Stages(const PolicySpec& policy, const Weights& placed, Backend& on_backend,
               size_t header_bytes)
    : spec(policy), weights(placed), backend(on_backend) {
    memory_use.header_bytes = header_bytes;
    if (spec.programs.count("vision")) {
        vision_stage = std::make_unique<Stage>(program("vision").at(0), weights, backend);
        vision_stage->check_host_program();
    }
    if (spec.programs.count("decode")) {
        decode_stage = std::make_unique<Stage>(program("decode").at(0), weights, backend);
        decode_stage->check_host_program();
    }
    if (spec.min_prompt_length() < spec.max_prompt_length()) {
        build(spec.min_prompt_length());
        check(spec.min_prompt_length());
    }
    build(spec.max_prompt_length());
    check(spec.max_prompt_length());
    measure_memory();
}

const ProgramTemplate& Stages::program(const std::string& stage) const {
    auto found = spec.programs.find(stage);
    if (found == spec.programs.end()) {
        std::string names;
        for (const auto& [name, unused] : spec.programs) {
            names += " " + name;
        }
        throw ArgumentError("there is no stage '" + stage + "'; there are:" + names);
    }
    return found->second;
}

void Stages::prepare(int64_t prompt_length) {
    if (built_length != prompt_length) {
        build(prompt_length);
    }
}

// The old graphs go first: at no time is there memory for two lengths.
void Stages::build(int64_t prompt_length) {
    release();
    prefix_stage = std::make_unique<Stage>(program("prefix").at(prompt_length), weights, backend);
    if (spec.programs.count("denoise")) {
        Program denoise = program("denoise").at(prompt_length);
        std::map<std::string, ggml_tensor*> shared = prefix_tensors(denoise);
        denoise_stage = std::make_unique<Stage>(std::move(denoise), weights, backend, shared, true);
    }
    built_length = prompt_length;
}

void Stages::release() {
    built_length.reset();
    denoise_stage.reset();
    prefix_stage.reset();
}

void Stages::check(int64_t prompt_length) {
    double last_step = static_cast<double>(spec.sampler.steps.size()) - 1;
    for (const Stage* stage : built_stages()) {
        stage->check_host_program(
            {{"tokens", static_cast<double>(spec.prompt.pad_id)}, {"step", last_step}});
    }
    check_stage_contract(spec, *this, prompt_length);
}

std::map<std::string, ggml_tensor*> Stages::prefix_tensors(const Program& denoise) const {
    std::map<std::string, ggml_tensor*> tensors;
    for (const ValueInfo& output : prefix_stage->outputs()) {
        ggml_tensor* tensor = prefix_stage->output_tensor(output.name);
        const Instruction* input = denoise.find_input(output.name);
        bool same = input != nullptr && input->dtype == output.dtype &&
                    input->shape == output.shape && output.dtype == DType::f32;
        if (tensor != nullptr && same) {
            tensors[output.name] = tensor;
        }
    }
    return tensors;
}

// Those that are built for one prompt length.
std::vector<const Stage*> Stages::built_stages() const {
    std::vector<const Stage*> stages = {prefix_stage.get()};
    if (denoise_stage) {
        stages.push_back(denoise_stage.get());
    }
    return stages;
}

void Stages::measure_memory() {
    std::vector<const Stage*> stages = built_stages();
    for (const Stage* stage : {vision_stage.get(), decode_stage.get()}) {
        if (stage != nullptr) {
            stages.push_back(stage);
        }
    }
    size_t work_bytes = 0;
    for (const Stage* stage : stages) {
        memory_use.compute_bytes += stage->compute_bytes();
        memory_use.device_bytes += stage->device_bytes();
        left_to_cpu.insert(stage->operators_on_cpu().begin(), stage->operators_on_cpu().end());
        work_bytes = std::max(work_bytes, stage->work_bytes());
    }
    memory_use.compute_bytes += work_bytes + weights.panels_bytes();

    memory_use.device_bytes += weights.device_bytes();

    Reads reads = reads_of(spec);
    for (const std::string& name : reads.whole) {
        const Weight& weight = *weights.find(name);
        bool is_elsewhere = weights.has_panels(weight) || weights.is_on_device(weight);
        memory_use.weights_bytes += is_elsewhere ? 0 : ggml_nbytes(weight.tensor);
    }
    for (const std::string& name : reads.looked_up) {
        memory_use.tables_bytes += ggml_nbytes(weights.find(name)->tensor);
    }
}

const ValueInfo* Stages::embedding() const {
    return vision_stage ? vision_stage->find_output("embedding") : nullptr;
}

std::vector<StageValue> Stages::inputs(const std::string& stage) const {
    const ProgramTemplate& symbolic = program(stage);
    std::vector<StageValue> values;
    for (const Instruction& instruction : symbolic.structure().instructions) {
        if (instruction.is_input()) {
            values.push_back({instruction.text("name"), instruction.dtype,
                              symbolic.sizes_of(instruction.result)});
        }
    }
    return values;
}

std::vector<StageValue> Stages::outputs(const std::string& stage) const {
    const ProgramTemplate& symbolic = program(stage);
    std::vector<StageValue> values;
    for (const ProgramOutput& output : symbolic.structure().outputs) {
        if (is_file_tensor(output.value)) {
            const Weight& tensor = *weights.find(output.value.substr(1));
            values.push_back(
                {output.name, value_dtype(tensor.tensor->type), constant_sizes(tensor.shape)});
        } else {
            DType dtype = symbolic.structure().definition(output.value)->dtype;
            values.push_back({output.name, dtype, symbolic.sizes_of(output.value)});
        }
    }
    return values;
}

int64_t Stages::prompt_length_of(const std::string& stage,
                                 const std::map<std::string, ArrayView>& inputs) const {
    for (const StageValue& value : this->inputs(stage)) {
        auto given = inputs.find(value.name);
        if (given == inputs.end() || given->second.shape.size() != value.sizes.size()) {
            continue;
        }
        for (size_t k = 0; k < value.sizes.size(); k++) {
            if (value.sizes[k].factor != 0) {
                return (given->second.shape[k] - value.sizes[k].constant) / value.sizes[k].factor;
            }
        }
    }
    return built_length.value_or(spec.max_prompt_length());
}

std::map<std::string, Array> Stages::run(const std::string& stage,
                                         const std::map<std::string, ArrayView>& inputs) {
    for (const StageValue& value : this->inputs(stage)) {
        if (!inputs.count(value.name)) {
            throw ArgumentError("stage '" + stage + "': the input " + value.name + " is not given");
        }
    }
    int64_t prompt_length = prompt_length_of(stage, inputs);
    if (prompt_length < spec.min_prompt_length() || prompt_length > spec.max_prompt_length()) {
        throw ArgumentError("stage '" + stage + "': the inputs are for prompts of " +
                            std::to_string(prompt_length) + " tokens; they may have " +
                            std::to_string(spec.min_prompt_length()) + " to " +
                            std::to_string(spec.max_prompt_length()));
    }
    prepare(prompt_length);
    Stage& asked = stage == "vision"    ? *vision_stage
                   : stage == "denoise" ? *denoise_stage
                   : stage == "decode"  ? *decode_stage
                                        : *prefix_stage;
    return run_alone(asked, inputs);
}

} // namespace actquant
