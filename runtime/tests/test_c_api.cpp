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
        {"actquant.tokenizer.json",
         R"({"model": {"type": "BPE", "vocab": {"a": 0, "b": 1}, "merges": []}})"},
        {"actquant.tokenizer.suffix", ""},
        {"actquant.provenance", "{}"},
        {"actquant.allocation", "{}"},
        {"actquant.golden", "[]"},
        {"actquant.shapes", "w [2,2]"},
        {"actquant.graph.vision", "%0 = input f32[1,3,1,2] name=image\n"
                                  "%1 = slice f32[1,1,1,2] %0 dim=1 start=0 end=1\n"
                                  "%2 = reshape f32[1,1,2] %1\noutput embedding %2"},
        {"actquant.graph.prefix", "%0 = input f32[1,1,2] name=image_embedding_0\n"
                                  "%1 = linear f32[1,1,2] %0 @w\n"
                                  "%2 = input i64[1,L] name=tokens\n"
                                  "%3 = embedding f32[1,L,2] @w %2\n"
                                  "%4 = mean f32[1,1,2] %3 dims=[1] keep=1\n"
                                  "%5 = add f32[1,1,2] %1 %4\noutput context %5"},
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
        {"actquant.tokenizer.max_length", 3},
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

// Vision passes the red channel on, the prefix multiplies it by w and adds the mean of the tokens'
// rows of w, the flow goes half way twice.
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
    const char* task = "a";

    aq_observation observation() const { return {&image, 1, &state, 1, task, nullptr, 0}; }
};

// The distance to the context (x, y) is halved twice; then ·std + mean.
static bool reaches(aq_session* session, const aq_observation& observation, float x, float y) {
    float start[2] = {4, -8};
    aq_noise noise = {start, 2, 0, 0};
    float actions[2] = {};
    CHECK(aq_act(session, &observation, &noise, actions, 2) == AQ_OK);
    float ends[2] = {x + (4 - x) / 4, 2 * (y + (-8 - y) / 4) + 1};
    return std::abs(actions[0] - ends[0]) < 1e-6f && std::abs(actions[1] - ends[1]) < 1e-5f;
}

static void acts(aq_session* session) {
    Scene scene;
    aq_observation observation = scene.observation();
    CHECK(reaches(session, observation, 0.2f + 1, 1.2f));
    CHECK(aq_last_timings(session).total_ms > 0);
    observation.task = "ab";
    CHECK(reaches(session, observation, 0.2f + 0.5f, 1.2f + 1.5f));
    observation.task = nullptr;
    int64_t tokens[3] = {1, 1, 0};
    observation.tokens = tokens;
    observation.token_count = 3;
    CHECK(reaches(session, observation, 0.2f + 1.0f / 3, 1.2f + 2));
    CHECK(reaches(session, scene.observation(), 0.2f + 1, 1.2f));
}

static void draws_noise(aq_session* session) {
    Scene scene;
    aq_observation observation = scene.observation();
    float first[2], second[2];
    aq_noise seeded = {nullptr, 0, 7, 1};
    CHECK(aq_act(session, &observation, &seeded, first, 2) == AQ_OK);
    CHECK(aq_act(session, &observation, &seeded, second, 2) == AQ_OK);
    CHECK(first[0] == second[0] && first[1] == second[1]);
    CHECK(aq_act(session, &observation, nullptr, second, 2) == AQ_OK);
    CHECK(first[0] != second[0]);
}

// Of the policy above, whose flow leads from x to the context, guided with full weight.
static float guided(float x, float context, float previous) {
    float strengths[2] = {10, 2}; // at the times 1 and 0.5
    for (int step = 0; step < 2; step++) {
        float time = step == 0 ? 1 : 0.5f;
        float velocity = x - context;
        float error = previous - (x - time * velocity);
        x -= 0.5f * (velocity - strengths[step] * error);
    }
    return x;
}

static void follows_the_previous_chunk(aq_session* session) {
    Scene scene;
    aq_observation observation = scene.observation();
    float start[2] = {4, -8}, left_over[2] = {0.5f, 7};
    aq_noise noise = {start, 2, 0, 0};
    aq_previous previous = {left_over, 2, 1, 0, 0, AQ_SCHEDULE_LINEAR};
    float actions[2], unguided[2];
    CHECK(aq_act_after(session, &observation, &noise, &previous, actions, 2) == AQ_OK);
    CHECK(std::abs(actions[0] - guided(4, 1.2f, 0.5f)) < 1e-4f);
    CHECK(std::abs(actions[1] - (2 * guided(-8, 1.2f, 3) + 1)) < 1e-4f);
    CHECK(aq_act_after(session, &observation, &noise, nullptr, actions, 2) == AQ_OK);
    CHECK(aq_act(session, &observation, &noise, unguided, 2) == AQ_OK);
    CHECK(actions[0] == unguided[0] && actions[1] == unguided[1]);
    left_over[1] = NAN;
    CHECK(aq_act_after(session, &observation, &noise, &previous, actions, 2) == AQ_ERROR_ARGUMENT);
    CHECK(contains(aq_last_error(), "the previous chunk is nan in step 0, y_m"));
    left_over[1] = 7;
    previous.action_count = 1;
    CHECK(aq_act_after(session, &observation, &noise, &previous, actions, 2) == AQ_ERROR_ARGUMENT);
    CHECK(contains(aq_last_error(), "1 numbers, expected 1 to 1 actions of 2"));
    previous.action_count = 2;
    previous.schedule = static_cast<aq_schedule>(9);
    CHECK(aq_act_after(session, &observation, &noise, &previous, actions, 2) == AQ_ERROR_ARGUMENT);
    CHECK(contains(aq_last_error(), "there is no schedule 9"));
}

static void tokenizes(aq_session* session) {
    float state = 0.5f;
    int64_t tokens[3] = {9, 9, 9};
    size_t count = 0;
    CHECK(aq_tokenize(session, "ba", &state, 1, tokens, 3, &count) == AQ_OK);
    CHECK(count == 2 && tokens[0] == 1 && tokens[1] == 0 && tokens[2] == 9);
    CHECK(aq_tokenize(session, "bab", &state, 1, tokens, 2, &count) == AQ_ERROR_ARGUMENT);
    CHECK(count == 3 && contains(aq_last_error(), "room for 2 tokens, the prompt has 3"));
    CHECK(aq_tokenize(session, "a", nullptr, 0, tokens, 3, &count) == AQ_ERROR_ARGUMENT);
    CHECK(contains(aq_last_error(), "observation.state has 0 elements, expected 1"));
    CHECK(aq_tokenize(session, nullptr, &state, 1, tokens, 3, &count) == AQ_ERROR_ARGUMENT);
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
    Scene whole;
    observation = whole.observation();
    observation.task = nullptr;
    CHECK(aq_act(session, &observation, nullptr, actions, 2) == AQ_ERROR_ARGUMENT);
    CHECK(contains(aq_last_error(), "lacks the task"));
    int64_t tokens[4] = {};
    observation.tokens = tokens;
    observation.token_count = 4;
    CHECK(aq_act(session, &observation, nullptr, actions, 2) == AQ_ERROR_ARGUMENT);
    CHECK(contains(aq_last_error(), "4 tokens, expected 1 to 3"));
    observation = whole.observation();
    observation.images = nullptr;
    CHECK(aq_act(session, &observation, nullptr, actions, 2) == AQ_ERROR_ARGUMENT);
    CHECK(contains(aq_last_error(), "list of images has 0 elements, expected 1"));

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
    acts(session);
    draws_noise(session);
    follows_the_previous_chunk(session);
    tokenizes(session);
    explains_what_is_wrong(session);
    aq_close(session);
    aq_close(nullptr);
}
