#include "graph/stage_contract.h"

#include "common/error.h"

namespace actquant {
namespace {

// What one stage must have under a name.
class StageContract {
  public:
    StageContract(std::string stage, Problems& problems)
        : stage(std::move(stage)), noted(problems) {}

    // Checks the inputs that exist, and that there are no others.
    void expect_inputs(const std::vector<ValueInfo>& inputs, const std::vector<ValueInfo>& known) {
        std::map<std::string, ValueInfo> table;
        for (const ValueInfo& info : known) {
            table[info.name] = info;
        }
        for (const ValueInfo& input : inputs) {
            auto found = table.find(input.name);
            if (found == table.end()) {
                noted.add("stage '" + stage + "': nothing provides the input " + input.name);
            } else {
                expect("input", &input, found->second);
            }
        }
    }

    void expect_output(const ValueInfo* actual, const ValueInfo& expected) {
        expect("output", actual, expected);
    }

  private:
    void expect(const std::string& kind, const ValueInfo* actual, const ValueInfo& expected) {
        if (actual == nullptr) {
            noted.add("stage '" + stage + "' lacks the " + kind + " " + expected.name);
        } else if (actual->dtype != expected.dtype || actual->shape != expected.shape) {
            noted.add("stage '" + stage + "': the " + kind + " " + expected.name + " is " +
                      dtype_name(actual->dtype) + to_string(actual->shape) + ", expected " +
                      dtype_name(expected.dtype) + to_string(expected.shape));
        }
    }

    std::string stage;
    Problems& noted;
};

// [1,T,D]; T and D are the stage's own.
ValueInfo embedding_of(const Stages& stages) {
    const ValueInfo* embedding = stages.embedding();
    Shape shape = embedding == nullptr ? Shape{} : embedding->shape;
    if (shape.size() != 3 || shape[0] != 1) {
        shape = {1, 0, 0};
    }
    return {"embedding", DType::f32, shape};
}

void check_vision(const PolicySpec& spec, Stages& stages, Problems& problems) {
    if (stages.vision() == nullptr) {
        return;
    }
    StageContract contract("vision", problems);
    contract.expect_inputs(stages.vision()->inputs(),
                           {{"image", DType::f32, {1, 3, spec.image.height, spec.image.width}}});
    contract.expect_output(stages.embedding(), embedding_of(stages));
}

void check_prefix(const PolicySpec& spec, Stages& stages, int64_t prompt_length,
                  Problems& problems) {
    std::vector<ValueInfo> known = {
        {"tokens", DType::i64, {1, prompt_length}},
        {"token_mask", DType::b8, {1, prompt_length}},
        {"state", DType::f32, {spec.observation_steps, spec.state.padded_dim}},
    };
    for (int64_t k = 0; k < spec.image_count(); k++) {
        std::string index = std::to_string(k);
        known.push_back({"image_embedding_" + index, DType::f32, embedding_of(stages).shape});
        known.push_back({"image_mask_" + index, DType::b8, {1}});
    }
    StageContract contract("prefix", problems);
    contract.expect_inputs(stages.prefix().inputs(), known);
    if (spec.driver == "one_shot") {
        contract.expect_output(
            stages.prefix().find_output("actions"),
            {"actions", DType::f32, {1, spec.chunk_length, spec.action.padded_dim}});
    }
}

void check_sampling(const PolicySpec& spec, Stages& stages, Problems& problems) {
    if (stages.denoise() == nullptr) {
        return;
    }
    Shape sample = {1, spec.sampler.noise_rows, spec.sampler.noise_dim};
    Shape chunk = {1, spec.chunk_length, spec.action.padded_dim};
    std::vector<ValueInfo> known = stages.prefix().outputs();
    for (const ValueInfo& output : known) {
        if (output.name == "x_t" || output.name == "step") {
            problems.add("stage 'prefix' has an output " + output.name +
                         ", which is what the driver gives to 'denoise'");
        }
    }
    known.push_back({"x_t", DType::f32, sample});
    known.push_back({"step", DType::i64, {1}});
    StageContract denoise("denoise", problems);
    denoise.expect_inputs(stages.denoise()->inputs(), known);
    denoise.expect_output(stages.denoise()->find_output("output"), {"output", DType::f32, sample});
    if (stages.decode() != nullptr) {
        StageContract decode("decode", problems);
        decode.expect_inputs(stages.decode()->inputs(), {{"x", DType::f32, sample}});
        decode.expect_output(stages.decode()->find_output("actions"),
                             {"actions", DType::f32, chunk});
    } else if (sample != chunk) {
        problems.add("the sample " + to_string(sample) + " is not the chunk " + to_string(chunk) +
                     ", and there is no stage 'decode'");
    }
}

} // namespace

void check_stage_contract(const PolicySpec& spec, Stages& stages, int64_t prompt_length) {
    Problems problems;
    check_vision(spec, stages, problems);
    check_prefix(spec, stages, prompt_length, problems);
    check_sampling(spec, stages, problems);
    problems.throw_if_any("the stages do not fit the driver " + spec.driver + ":");
}

} // namespace actquant
