/*
 * The C interface of the actquant runtime: opens a policy file and turns observations into actions.
 *
 *     aq_session* session = NULL;
 *     if (aq_open("policy.gguf", 0, &session) != AQ_OK) { puts(aq_last_error()); }
 *     aq_observation observation = { ... };
 *     if (aq_act(session, &observation, NULL, actions, action_count) != AQ_OK) { ... }
 *     aq_close(session);
 *
 * A session may be used from several threads; its calls run one after the other. Two sessions are
 * independent. No function lets a C++ exception out.
 */
#ifndef ACTQUANT_H
#define ACTQUANT_H

#include <stddef.h>
#include <stdint.h>

#if defined(__GNUC__)
#define AQ_API __attribute__((visibility("default")))
#else
#define AQ_API
#endif

#ifdef __cplusplus
extern "C" {
#endif

typedef enum aq_status {
    AQ_OK = 0,
    AQ_ERROR_FILE = 1,     /* the policy file is missing, damaged, foreign or too new */
    AQ_ERROR_ARGUMENT = 2, /* the observation does not fit the policy */
    AQ_ERROR_INTERNAL = 3, /* anything else, e.g. out of memory */
} aq_status;

typedef struct aq_session aq_session;

/* UTF-8: what is wrong, for the last call that failed in this thread; valid until the next such. */
AQ_API const char* aq_last_error(void);

/*
 * threads = 0: as many as a model of this size has work for. AQ_ERROR_INTERNAL on a processor that
 * lacks instructions which this library was built for; aq_last_error names them.
 */
AQ_API aq_status aq_open(const char* path, int threads, aq_session** session);
/*
 * As aq_open, on a device: "cpu", "auto" (the first GPU, or else the processor), "vulkan", "cuda"
 * (the first of the kind), or one of several, e.g. "vulkan1". A library without GPUs knows "cpu"
 * and "auto". Gives AQ_ERROR_ARGUMENT, and names what there is, where there is no such device. What
 * the device lacks runs on the processor; aq_describe names it ("operators_on_cpu").
 */
AQ_API aq_status aq_open_on(const char* path, int threads, const char* device,
                            aq_session** session);
AQ_API void aq_close(aq_session* session);

/* JSON: the policy's metadata, stages and tensors. Valid until aq_close. */
AQ_API const char* aq_describe(const aq_session* session);

/* 8-bit RGB, [height, width, 3]; pixels = NULL: the camera is absent. */
typedef struct aq_image {
    const uint8_t* pixels;
    int64_t height;
    int64_t width;
} aq_image;

typedef struct aq_observation {
    const aq_image* images; /* observation steps x cameras of the policy, oldest step first */
    size_t image_count;
    const float* state; /* [observation steps, state dimension], in the robot's units */
    size_t state_count;
    const char* task;      /* UTF-8; NULL for a policy without language */
    const int64_t* tokens; /* the prompt without padding; NULL: made from task and state */
    size_t token_count;
} aq_observation;

/* What the policy samples from. All zero: random noise. */
typedef struct aq_noise {
    const float* values; /* of the shape "noise_shape" in aq_describe, or NULL to draw it */
    size_t count;
    uint64_t seed; /* used when values is NULL and has_seed is not 0 */
    int has_seed;
} aq_noise;

/*
 * The prompt of a task and a state, as aq_act makes it, without padding. Sets *count to its length,
 * and fills `tokens` if its capacity suffices; else gives AQ_ERROR_ARGUMENT.
 */
AQ_API aq_status aq_tokenize(const aq_session* session, const char* task, const float* state,
                             size_t state_count, int64_t* tokens, size_t capacity, size_t* count);

/* Fills actions [chunk length, action dimension], in the robot's units. noise may be NULL. */
AQ_API aq_status aq_act(aq_session* session, const aq_observation* observation,
                        const aq_noise* noise, float* actions, size_t action_count);

/* How the weight of the previous actions falls between the delay and the execution horizon. */
typedef enum aq_schedule {
    AQ_SCHEDULE_LINEAR = 0,
    AQ_SCHEDULE_ZEROS = 1, /* at once after the delay */
    AQ_SCHEDULE_ONES = 2,  /* at once at the horizon */
    AQ_SCHEDULE_EXP = 3,   /* faster than linear */
} aq_schedule;

/*
 * What is left of the chunk before, which the robot executes while the new one is made. The first
 * action falls on the same control step as the new chunk's first.
 */
typedef struct aq_previous {
    const float* actions;      /* [1 to chunk length, action dimension], in the robot's units */
    size_t action_count;       /* numbers, not rows */
    int64_t delay;             /* rows that will have been executed when the new chunk is there */
    int64_t execution_horizon; /* rows after which the weight is 0; 0: 10 */
    float max_guidance;        /* bound of the guidance's strength; 0: 10 */
    int32_t schedule;          /* an aq_schedule */
} aq_previous;

/*
 * As aq_act, but the chunk is guided to begin as the previous one goes on (real-time chunking).
 * Gives AQ_ERROR_ARGUMENT for a policy whose "supports_guidance" in aq_describe is false, and for
 * previous actions that are not finite. previous may be NULL.
 */
AQ_API aq_status aq_act_after(aq_session* session, const aq_observation* observation,
                              const aq_noise* noise, const aq_previous* previous, float* actions,
                              size_t action_count);

/*
 * The observation and noise that a seed stands for, the same everywhere (docs/format.md, "Golden
 * inputs"): pixels [observation steps, cameras, source height, source width, 3], state as in
 * aq_observation, noise of "noise_shape". Counts other than these give AQ_ERROR_ARGUMENT.
 */
AQ_API aq_status aq_golden_inputs(const aq_session* session, uint64_t seed, uint8_t* pixels,
                                  size_t pixel_count, float* state, size_t state_count,
                                  float* noise, size_t noise_count);

/*
 * Distances are root mean square differences of a chunk in standard deviations of each action, over
 * the file's golden inputs: their mean, and the worst chunk.
 */
typedef struct aq_self_test_result {
    size_t inputs;
    double mean; /* from what this file answered where it was made */
    double worst;
    double limit;          /* on worst */
    double reference_mean; /* from the policy before compression; NaN where it is unknown */
    double reference_worst;
    int passed;
} aq_self_test_result;

/* Runs the file's golden inputs. Gives AQ_ERROR_FILE if it has none. */
AQ_API aq_status aq_self_test(aq_session* session, aq_self_test_result* result);

typedef struct aq_timings {
    double vision_ms;
    double prefix_ms;
    double denoise_ms;
    double total_ms;
} aq_timings;

/* Of the last action. */
AQ_API aq_timings aq_last_timings(const aq_session* session);

/*
 * How many tokens of the last action's prompt were cut from the end of its text, for which this
 * policy has no room. It acts on the rest, as it did in training; who speaks to it should know.
 */
AQ_API int64_t aq_lost_tokens(const aq_session* session);

/*
 * Acts `runs` times, operator by operator, which takes a little longer than aq_act. json: for each
 * stage, operator and kernel ("operators") the calls, milliseconds, operations and bytes of weights
 * of one action, what this machine reaches with so many threads ("reach_per_s"), and what the
 * operator would take at that ("least_ms"). Valid until the next call or aq_close.
 */
AQ_API aq_status aq_profile(aq_session* session, const aq_observation* observation, int runs,
                            const char** json);

#ifdef __cplusplus
}
#endif

#endif
