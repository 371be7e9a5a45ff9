#include "check.h"
#include "tiny_policy.h"

#include <cmath>

static const char* path = "c_api.gguf";

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
    previous.schedule = 9;
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
    CHECK(aq_open_on(path, 1, nullptr, &none) == AQ_ERROR_ARGUMENT);
    CHECK(aq_open_on(path, 1, "tpu", &none) == AQ_ERROR_ARGUMENT && none == nullptr);
}

int main() {
    write_tiny_policy(path);
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
