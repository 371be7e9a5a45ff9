#include "flow_matching.h"

#include "error.h"

#include <chrono>

namespace actquant {
namespace {

class Stopwatch {
  public:
    double elapsed_ms() const {
        return std::chrono::duration<double, std::milli>(Clock::now() - start).count();
    }

  private:
    using Clock = std::chrono::steady_clock;
    Clock::time_point start = Clock::now();
};

const Program& program_of(const PolicySpec& spec, const std::string& stage) {
    auto found = spec.programs.find(stage);
    if (found == spec.programs.end()) {
        throw FileError("the flow_matching driver needs the stages vision, prefix and denoise; '" +
                        stage + "' is missing");
    }
    return found->second;
}

// What a stage must have under a name, where it has it at all.
class StageContract {
  public:
    StageContract(std::string stage, Problems& problems)
        : stage(std::move(stage)), noted(problems) {}

    void expect(const std::string& kind, const ValueInfo* actual, const std::string& name,
                DType dtype, const Shape& shape) {
        if (actual == nullptr) {
            noted.add("stage '" + stage + "' lacks the " + kind + " " + name);
        } else if (actual->dtype != dtype || actual->shape != shape) {
            noted.add("stage '" + stage + "': the " + kind + " " + name + " is " +
                      dtype_name(actual->dtype) + to_string(actual->shape) + ", expected " +
                      dtype_name(dtype) + to_string(shape));
        }
    }

    // Checks the inputs that exist, and that there are no others.
    void expect_inputs(const std::vector<ValueInfo>& inputs,
                       const std::map<std::string, ValueInfo>& known) {
        for (const ValueInfo& input : inputs) {
            auto found = known.find(input.name);
            if (found == known.end()) {
                noted.add("stage '" + stage + "': nothing provides the input " + input.name);
            } else {
                expect("input", &input, input.name, found->second.dtype, found->second.shape);
            }
        }
    }

  private:
    std::string stage;
    Problems& noted;
};

std::map<std::string, ValueInfo> by_name(const std::vector<ValueInfo>& infos) {
    std::map<std::string, ValueInfo> table;
    for (const ValueInfo& info : infos) {
        table[info.name] = info;
    }
    return table;
}

} // namespace

FlowMatching::FlowMatching(const PolicySpec& policy, const ModelFile& file, Device& device)
    : spec(policy), vision(program_of(spec, "vision"), file, device),
      prefix(program_of(spec, "prefix"), file, device),
      denoise(program_of(spec, "denoise"), {"x_t", "timestep"}, file, device, prefix_tensors()) {
    check_stages();
}

std::map<std::string, ggml_tensor*> FlowMatching::prefix_tensors() const {
    std::map<std::string, ggml_tensor*> tensors;
    for (const ValueInfo& output : prefix.outputs()) {
        ggml_tensor* tensor = prefix.output_tensor(output.name);
        const Instruction* input = program_of(spec, "denoise").find_input(output.name);
        bool same = input != nullptr && input->dtype == output.dtype &&
                    input->shape == output.shape && output.dtype == DType::f32;
        if (tensor != nullptr && same) {
            tensors[output.name] = tensor;
        }
    }
    return tensors;
}

void FlowMatching::check_stages() const {
    Problems problems;
    StageContract for_vision("vision", problems);
    for_vision.expect_inputs(
        vision.inputs(),
        by_name({{"image", DType::f32, {1, 3, spec.image.height, spec.image.width}}}));
    const ValueInfo* embedding = vision.find_output("embedding");
    Shape embedding_shape = embedding != nullptr ? embedding->shape : Shape{1, 0, 0};
    for_vision.expect("output", embedding, "embedding", DType::f32, embedding_shape);

    std::vector<ValueInfo> to_prefix = {
        {"tokens", DType::i64, {1, spec.max_prompt_length}},
        {"token_mask", DType::b8, {1, spec.max_prompt_length}},
        {"state", DType::f32, {1, spec.state.padded_dim}},
    };
    for (size_t k = 0; k < spec.cameras.size(); k++) {
        std::string index = std::to_string(k);
        to_prefix.push_back({"image_embedding_" + index, DType::f32, embedding_shape});
        to_prefix.push_back({"image_mask_" + index, DType::b8, {1}});
    }
    StageContract("prefix", problems).expect_inputs(prefix.inputs(), by_name(to_prefix));

    Shape chunk = {1, spec.chunk_length, spec.action.padded_dim};
    std::vector<ValueInfo> to_denoise = prefix.outputs();
    to_denoise.push_back({"x_t", DType::f32, chunk});
    to_denoise.push_back({"timestep", DType::f32, {1}});
    StageContract for_denoise("denoise", problems);
    for_denoise.expect_inputs(denoise.inputs(), by_name(to_denoise));
    for_denoise.expect("output", denoise.step().find_output("velocity"), "velocity", DType::f32,
                       chunk);
    problems.throw_if_any("the stages do not fit the flow_matching driver:");
}

void FlowMatching::set_if_used(Stage& stage, const std::string& name, const ArrayView& value) {
    if (stage.needs_input(name)) {
        stage.set_input(name, value);
    }
}

Array FlowMatching::embed_image(const ImageView& image, const std::string& camera) {
    std::vector<float> pixels = preprocess_image(spec.image, image, camera);
    Shape shape = {1, 3, spec.image.height, spec.image.width};
    vision.set_input("image", {DType::f32, shape, pixels.data()});
    vision.run();
    return vision.output("embedding");
}

void FlowMatching::run_prefix(const Observation& observation, const std::vector<float>& state,
                              Timings& timings) {
    Stopwatch vision_watch;
    const Shape& embedding_shape = vision.find_output("embedding")->shape;
    for (size_t k = 0; k < spec.cameras.size(); k++) {
        uint8_t is_present = observation.images[k].pixels != nullptr;
        Array embedding{DType::f32, embedding_shape, {}};
        if (is_present) {
            embedding = embed_image(observation.images[k], spec.cameras[k]);
        } else {
            embedding.bytes.resize(element_count(embedding_shape) * sizeof(float), 0);
        }
        std::string index = std::to_string(k);
        set_if_used(prefix, "image_embedding_" + index,
                    {DType::f32, embedding_shape, embedding.bytes.data()});
        set_if_used(prefix, "image_mask_" + index, {DType::b8, {1}, &is_present});
    }
    timings.vision_ms = vision_watch.elapsed_ms();

    Stopwatch prefix_watch;
    Shape prompt = {1, spec.max_prompt_length};
    set_if_used(prefix, "tokens", {DType::i64, prompt, observation.tokens.data()});
    set_if_used(prefix, "token_mask", {DType::b8, prompt, observation.token_mask.data()});
    set_if_used(prefix, "state", {DType::f32, {1, spec.state.padded_dim}, state.data()});
    prefix.run();
    timings.prefix_ms = prefix_watch.elapsed_ms();
}

// Device tensors are shared already; what the prefix computed on the host is copied.
void FlowMatching::hand_over_prefix() {
    for (const ValueInfo& output : prefix.outputs()) {
        if (denoise.needs_input(output.name)) {
            Array value = prefix.output(output.name);
            denoise.set_input(output.name, {value.dtype, value.shape, value.bytes.data()});
        }
    }
    denoise.run_once();
}

std::vector<float> FlowMatching::act(const Observation& observation,
                                     const std::vector<float>& state, std::vector<float> noise,
                                     Timings& timings) {
    Stopwatch total_watch;
    run_prefix(observation, state, timings);

    Stopwatch denoise_watch;
    hand_over_prefix();
    std::vector<float> x = std::move(noise);
    Shape chunk = {1, spec.chunk_length, spec.action.padded_dim};
    float step = 1.0f / static_cast<float>(spec.num_steps);
    for (int64_t k = 0; k < spec.num_steps; k++) {
        float timestep =
            static_cast<float>(1.0 - static_cast<double>(k) / static_cast<double>(spec.num_steps));
        if (denoise.needs_input("x_t")) {
            denoise.set_input("x_t", {DType::f32, chunk, x.data()});
        }
        if (denoise.needs_input("timestep")) {
            denoise.set_input("timestep", {DType::f32, {1}, &timestep});
        }
        denoise.run_step();
        Array velocity = denoise.step().output("velocity");
        for (size_t i = 0; i < x.size(); i++) {
            x[i] -= velocity.as<float>()[i] * step;
        }
    }
    timings.denoise_ms = denoise_watch.elapsed_ms();
    timings.total_ms = total_watch.elapsed_ms();
    return x;
}

const std::vector<ValueInfo>& FlowMatching::stage_inputs(const std::string& stage) const {
    return stage == "denoise" ? denoise.inputs() : (stage == "prefix" ? prefix : vision).inputs();
}

const std::vector<ValueInfo>& FlowMatching::stage_outputs(const std::string& stage) const {
    return stage == "denoise" ? denoise.step().outputs()
                              : (stage == "prefix" ? prefix : vision).outputs();
}

std::map<std::string, Array>
FlowMatching::run_stage(const std::string& name, const std::map<std::string, ArrayView>& inputs) {
    if (name != "vision" && name != "prefix" && name != "denoise") {
        throw ArgumentError("there is no stage '" + name +
                            "'; the stages are vision, prefix and denoise");
    }
    for (const ValueInfo& info : stage_inputs(name)) {
        if (!inputs.count(info.name)) {
            throw ArgumentError("stage '" + name + "': the input " + info.name + " is not given");
        }
    }
    Stage& simple = name == "prefix" ? prefix : vision;
    for (const auto& [input, value] : inputs) {
        if (name == "denoise") {
            denoise.set_input(input, value);
        } else {
            simple.set_input(input, value);
        }
    }
    if (name == "denoise") {
        denoise.run_once();
        denoise.run_step();
    } else {
        simple.run();
    }
    const Stage& ran = name == "denoise" ? denoise.step() : simple;
    std::map<std::string, Array> outputs;
    for (const ValueInfo& info : ran.outputs()) {
        outputs[info.name] = ran.output(info.name);
    }
    return outputs;
}

} // namespace actquant
