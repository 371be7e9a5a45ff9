#include "actquant.h"
#include "check.h"

#include <ggml.h>
#include <gguf.h>

#include <algorithm>
#include <cmath>
#include <vector>

static const char* path = "c_api.gguf";

static void add_strings(gguf_context* file, const char* key, std::vector<const char*> values) {
    gguf_set_arr_str(file, key, values.data(), values.size());
}

static void add_floats(gguf_context* file, const char* key, std::vector<float> values) {
    gguf_set_arr_data(file, key, GGUF_TYPE_FLOAT32, values.data(), values.size());
}

static void add_strings_of(gguf_context* file) {
    const std::pair<const char*, const char*> strings[] = {
        {"general.architecture", "actquant"},
        {"general.name", "tiny"},
        {"actquant.policy.family", "test"},
        {"actquant.driver", "sampling"},
        {"actquant.prompt.template", "{task}"},
        {"actquant.tokenizer.json", "{}"},
        {"actquant.tokenizer.suffix", ""},
        {"actquant.provenance", "{}"},
        {"actquant.allocation", "{}"},
        {"actquant.golden", "[]"},
        {"actquant.shapes", "w [2,2]"},
        {"actquant.graph.vision", "%0 = input f32[1,3,1,2] name=image\n"
                                  "%1 = slice f32[1,1,1,2] %0 dim=1 start=0 end=1\n"
                                  "%2 = reshape f32[1,1,2] %1\noutput embedding %2"},
        {"actquant.graph.prefix", "%0 = input f32[1,1,2] name=image_embedding_0\n"
                                  "%1 = linear f32[1,1,2] %0 @w\noutput context %1"},
        {"actquant.graph.denoise", "%0 = input f32[1,1,2] name=x_t\n"
                                   "%1 = input f32[1,1,2] name=context\n"
                                   "%2 = sub f32[1,1,2] %0 %1\noutput output %2"},
    };
    for (auto [key, value] : strings) {
        gguf_set_val_str(file, key, value);
    }
}

static void add_numbers(gguf_context* file) {
    const std::pair<const char*, uint32_t> numbers[] = {
        {"actquant.format_version", 2},
        {"actquant.noise.rows", 1},
        {"actquant.noise.dim", 2},
        {"actquant.observation.steps", 1},
        {"actquant.cameras.optional", 0},
        {"actquant.image.height", 1},
        {"actquant.image.width", 2},
        {"actquant.image.source_height", 1},
        {"actquant.image.source_width", 2},
        {"actquant.prompt.state_bins", 0},
        {"actquant.tokenizer.min_length", 1},
        {"actquant.tokenizer.max_length", 1},
        {"actquant.tokenizer.pad_id", 0},
        {"actquant.state.padded_dim", 1},
        {"actquant.action.padded_dim", 2},
        {"actquant.action.chunk_length", 1},
        {"actquant.action.steps_per_chunk", 1},
    };
    for (auto [key, value] : numbers) {
        gguf_set_val_u32(file, key, value);
    }
    gguf_set_val_u64(file, "actquant.policy.parameter_count", 4);
    gguf_set_val_f32(file, "actquant.image.scale", 1);
    gguf_set_val_f32(file, "actquant.image.offset", 0);
    gguf_set_val_f32(file, "actquant.normalization.eps", 0);
    gguf_set_val_f32(file, "actquant.control_rate_hz", 10);
    add_floats(file, "actquant.sampler.timesteps", {1, 0.5});
    std::vector<float> step = {0, 0, 0, 0, 1, -0.5f, 0, 0};
    step.insert(step.end(), step.begin(), step.end());
    add_floats(file, "actquant.sampler.coefficients", step);
    add_floats(file, "actquant.state.mean", {0});
    add_floats(file, "actquant.state.std", {1});
    add_floats(file, "actquant.action.mean", {0, 1});
    add_floats(file, "actquant.action.std", {1, 2});
}

// Vision passes the red channel on, the prefix multiplies it by w, the flow goes half way twice.
static void write_policy() {
    gguf_context* file = gguf_init_empty();
    add_strings_of(file);
    add_numbers(file);
    add_strings(file, "actquant.stages", {"vision", "prefix", "denoise"});
    add_strings(file, "actquant.cameras", {"observation.images.scene"});
    add_strings(file, "actquant.state.names", {"joint_rad"});
    add_strings(file, "actquant.action.names", {"x_m", "y_m"});
    ggml_context* tensors = ggml_init({1 << 20, nullptr, false});
    ggml_tensor* weight = ggml_new_tensor_2d(tensors, GGML_TYPE_F32, 2, 2);
    ggml_set_name(weight, "w");
    float values[4] = {1, 0, 0, 3};
    std::copy_n(values, 4, static_cast<float*>(weight->data));
    gguf_add_tensor(file, weight);
    CHECK(gguf_write_to_file(file, path, false));
    ggml_free(tensors);
    gguf_free(file);
}

struct Scene {
    uint8_t pixels[6] = {51, 0, 0, 102, 0, 0};
    aq_image image = {pixels, 1, 2};
    float state = 0.5f;
    int64_t token = 0;

    aq_observation observation() const { return {&image, 1, &state, 1, &token, 1}; }
};

static void acts(aq_session* session) {
    Scene scene;
    aq_observation observation = scene.observation();
    float start[2] = {4, -8};
    aq_noise noise = {start, 2, 0, 0};
    float actions[2] = {};
    CHECK(aq_act(session, &observation, &noise, actions, 2) == AQ_OK);
    // The distance to (0.2, 3·0.4) is halved twice; then ·std + mean.
    CHECK(std::abs(actions[0] - (0.2f + 3.8f / 4)) < 1e-6f);
    CHECK(std::abs(actions[1] - (2 * (1.2f - 9.2f / 4) + 1)) < 1e-5f);
    CHECK(aq_last_timings(session).total_ms > 0);

    float first[2], second[2];
    aq_noise seeded = {nullptr, 0, 7, 1};
    CHECK(aq_act(session, &observation, &seeded, first, 2) == AQ_OK);
    CHECK(aq_act(session, &observation, &seeded, second, 2) == AQ_OK);
    CHECK(first[0] == second[0] && first[1] == second[1]);
    CHECK(aq_act(session, &observation, nullptr, second, 2) == AQ_OK);
    CHECK(first[0] != second[0]);
}

static void explains_what_is_wrong(aq_session* session) {
    Scene scene;
    aq_observation observation = scene.observation();
    float actions[3] = {};
    CHECK(aq_act(session, &observation, nullptr, actions, 3) == AQ_ERROR_ARGUMENT);
    CHECK(contains(aq_last_error(), "room for 3 actions, expected 2"));
    CHECK(aq_act(session, nullptr, nullptr, actions, 2) == AQ_ERROR_ARGUMENT);
    scene.state = NAN;
    CHECK(aq_act(session, &observation, nullptr, actions, 2) == AQ_ERROR_ARGUMENT);
    CHECK(contains(aq_last_error(), "observation.state[0]"));
    scene.state = 0;
    scene.image.pixels = nullptr;
    CHECK(aq_act(session, &observation, nullptr, actions, 2) == AQ_ERROR_ARGUMENT);
    CHECK(contains(aq_last_error(), "lacks observation.images.scene"));

    aq_session* none = nullptr;
    CHECK(aq_open("absent.gguf", 0, &none) == AQ_ERROR_FILE && none == nullptr);
    CHECK(contains(aq_last_error(), "absent.gguf"));
    CHECK(aq_open(nullptr, 0, &none) == AQ_ERROR_ARGUMENT);
    CHECK(aq_open(path, -1, &none) == AQ_ERROR_ARGUMENT);
}

int main() {
    write_policy();
    aq_session* session = nullptr;
    CHECK(aq_open(path, 2, &session) == AQ_OK);
    CHECK(contains(aq_describe(session), "\"chunk_length\":1"));
    CHECK(std::string(aq_tokenizer_json(session)) == "{}");
    acts(session);
    explains_what_is_wrong(session);
    aq_close(session);
    aq_close(nullptr);
}
