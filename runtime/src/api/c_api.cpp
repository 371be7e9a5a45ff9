#include "actquant.h"

#include "api/build_info.h"
#include "api/session.h"
#include "common/error.h"
#include "common/limits.h"
#include "golden/self_test.h"

#include <algorithm>

struct aq_session {
    aq_session(const char* path, int threads, const char* device)
        : session(path, threads, device), description(session.describe()) {}

    actquant::Session session;
    std::string description;
    std::string profile;
};

namespace {

thread_local std::string last_error;

aq_status fail(aq_status status, const std::string& message) {
    last_error = message;
    return status;
}

template <typename Function> aq_status guarded(Function function) {
    try {
        function();
        return AQ_OK;
    } catch (const actquant::FileError& error) {
        return fail(AQ_ERROR_FILE, error.what());
    } catch (const actquant::ArgumentError& error) {
        return fail(AQ_ERROR_ARGUMENT, error.what());
    } catch (const std::exception& error) {
        return fail(AQ_ERROR_INTERNAL, actquant::Error(error.what()).what());
    } catch (...) {
        return fail(AQ_ERROR_INTERNAL, "unknown error");
    }
}

// A count that no policy has is a mistake; what it counts is not read then.
void check_count(const char* what, size_t count) {
    if (count > static_cast<size_t>(actquant::limits::host_elements)) {
        throw actquant::ArgumentError("there are " + std::to_string(count) + " " + what);
    }
}

std::vector<float> floats(const float* values, size_t count) {
    check_count("numbers", count);
    return values == nullptr ? std::vector<float>() : std::vector<float>(values, values + count);
}

actquant::Observation copy_observation(const aq_observation& source) {
    actquant::Observation observation;
    check_count("images", source.image_count);
    check_count("tokens", source.token_count);
    for (size_t k = 0; source.images != nullptr && k < source.image_count; k++) {
        const aq_image& image = source.images[k];
        observation.images.push_back({image.pixels, image.height, image.width});
    }
    observation.state = floats(source.state, source.state_count);
    if (source.task != nullptr) {
        observation.task = source.task;
    }
    if (source.tokens != nullptr) {
        observation.tokens.emplace(source.tokens, source.tokens + source.token_count);
    }
    return observation;
}

actquant::Schedule schedule_of(int32_t schedule) {
    switch (schedule) {
    case AQ_SCHEDULE_LINEAR:
        return actquant::Schedule::linear;
    case AQ_SCHEDULE_ZEROS:
        return actquant::Schedule::zeros;
    case AQ_SCHEDULE_ONES:
        return actquant::Schedule::ones;
    case AQ_SCHEDULE_EXP:
        return actquant::Schedule::exponential;
    }
    throw actquant::ArgumentError("there is no schedule " + std::to_string(schedule));
}

actquant::PreviousChunk copy_previous(const aq_previous& source) {
    actquant::PreviousChunk previous;
    previous.actions = floats(source.actions, source.action_count);
    previous.delay = source.delay;
    if (source.execution_horizon != 0) {
        previous.execution_horizon = source.execution_horizon;
    }
    if (source.max_guidance != 0) {
        previous.max_guidance = source.max_guidance;
    }
    previous.schedule = schedule_of(source.schedule);
    return previous;
}

template <typename Element>
void fill(const char* name, const std::vector<Element>& source, Element* target, size_t count) {
    if (count != source.size()) {
        throw actquant::ArgumentError("aq_golden_inputs: there is room for " +
                                      std::to_string(count) + " of " + name + ", expected " +
                                      std::to_string(source.size()));
    }
    std::copy(source.begin(), source.end(), target);
}

} // namespace

extern "C" {

const char* aq_last_error(void) {
    return last_error.c_str();
}

aq_status aq_open(const char* path, int threads, aq_session** session) {
    return aq_open_on(path, threads, "cpu", session);
}

aq_status aq_open_on(const char* path, int threads, const char* device, aq_session** session) {
    return guarded([&] {
        if (path == nullptr || device == nullptr || session == nullptr) {
            throw actquant::ArgumentError("aq_open: path, device and session must not be NULL");
        }
        *session = nullptr;
        actquant::check_cpu();
        *session = new aq_session(path, threads, device);
    });
}

void aq_close(aq_session* session) {
    delete session;
}

const char* aq_describe(const aq_session* session) {
    return session->description.c_str();
}

aq_status aq_tokenize(const aq_session* session, const char* task, const float* state,
                      size_t state_count, int64_t* tokens, size_t capacity, size_t* count) {
    return guarded([&] {
        if (session == nullptr || task == nullptr || count == nullptr) {
            throw actquant::ArgumentError("aq_tokenize: session, task and count must not be NULL");
        }
        std::vector<int64_t> prompt = session->session.tokenize(task, floats(state, state_count));
        *count = prompt.size();
        if (tokens == nullptr || capacity < prompt.size()) {
            throw actquant::ArgumentError("aq_tokenize: there is room for " +
                                          std::to_string(tokens == nullptr ? 0 : capacity) +
                                          " tokens, the prompt has " +
                                          std::to_string(prompt.size()));
        }
        std::copy(prompt.begin(), prompt.end(), tokens);
    });
}

aq_status aq_act(aq_session* session, const aq_observation* observation, const aq_noise* noise,
                 float* actions, size_t action_count) {
    return aq_act_after(session, observation, noise, nullptr, actions, action_count);
}

aq_status aq_act_after(aq_session* session, const aq_observation* observation,
                       const aq_noise* noise, const aq_previous* previous, float* actions,
                       size_t action_count) {
    return guarded([&] {
        if (session == nullptr || observation == nullptr || actions == nullptr) {
            throw actquant::ArgumentError(
                "aq_act: session, observation and actions must not be NULL");
        }
        const actquant::PolicySpec& spec = session->session.policy();
        size_t expected = spec.chunk_length * spec.action.dim();
        if (action_count != expected) {
            throw actquant::ArgumentError("aq_act: there is room for " +
                                          std::to_string(action_count) + " actions, expected " +
                                          std::to_string(expected));
        }
        std::vector<float> values;
        std::optional<uint64_t> seed;
        if (noise != nullptr && noise->values != nullptr) {
            values = floats(noise->values, noise->count);
        } else if (noise != nullptr && noise->has_seed) {
            seed = noise->seed;
        }
        std::optional<actquant::PreviousChunk> left_over;
        if (previous != nullptr) {
            left_over = copy_previous(*previous);
        }
        std::vector<float> result = session->session.act(copy_observation(*observation),
                                                         std::move(values), seed, left_over);
        std::copy(result.begin(), result.end(), actions);
    });
}

aq_status aq_golden_inputs(const aq_session* session, uint64_t seed, uint8_t* pixels,
                           size_t pixel_count, float* state, size_t state_count, float* noise,
                           size_t noise_count) {
    return guarded([&] {
        if (session == nullptr) {
            throw actquant::ArgumentError("aq_golden_inputs: session must not be NULL");
        }
        actquant::GoldenInputs inputs =
            make_golden_inputs(actquant::golden_layout(session->session.policy()), seed);
        fill("pixels", inputs.pixels, pixels, pixel_count);
        fill("state", inputs.state, state, state_count);
        fill("noise", inputs.noise, noise, noise_count);
    });
}

aq_status aq_self_test(aq_session* session, aq_self_test_result* result) {
    return guarded([&] {
        if (session == nullptr || result == nullptr) {
            throw actquant::ArgumentError("aq_self_test: session and result must not be NULL");
        }
        actquant::SelfTest found = actquant::run_self_test(session->session);
        *result = {found.inputs,         found.stored.mean,     found.stored.worst, found.limit,
                   found.reference.mean, found.reference.worst, found.passed};
    });
}

aq_status aq_profile(aq_session* session, const aq_observation* observation, int runs,
                     const char** json) {
    return guarded([&] {
        if (session == nullptr || observation == nullptr || json == nullptr) {
            throw actquant::ArgumentError(
                "aq_profile: session, observation and json must not be NULL");
        }
        session->profile = session->session.profile(copy_observation(*observation), runs);
        *json = session->profile.c_str();
    });
}

aq_timings aq_last_timings(const aq_session* session) {
    actquant::Timings timings = session->session.timings();
    return {timings.vision_ms, timings.prefix_ms, timings.denoise_ms, timings.total_ms};
}

int64_t aq_lost_tokens(const aq_session* session) {
    return session->session.lost_tokens();
}
}
