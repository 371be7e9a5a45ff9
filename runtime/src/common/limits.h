#pragma once

#include <cstddef>
#include <cstdint>

// What a file may ask for. Each is far above what any policy needs, and low enough that a damaged
// or crafted file is refused before it fills the memory, the stack or an hour. docs/format.md lists
// them ("Limits"), held to these lines by a test.
namespace actquant::limits {

// A fuzzer looks for what is wrong, not for what is large and slow.
#ifdef FUZZING_BUILD_MODE_UNSAFE_FOR_PRODUCTION
inline constexpr int fuzzed = 8;
#else
inline constexpr int fuzzed = 0;
#endif

// The container.
inline constexpr uint64_t keys = 1024;
inline constexpr uint64_t tensors = 65536;
inline constexpr uint64_t array_elements = 1 << 20;
inline constexpr uint64_t tensor_elements = uint64_t(1) << 40;
inline constexpr size_t name_bytes = 255;

// A program.
inline constexpr size_t program_lines = 16384;
inline constexpr size_t line_words = 1024;
inline constexpr int operator_chain = 4096;
inline constexpr size_t rank = 8;
inline constexpr int64_t value_elements = int64_t(1) << (28 - fuzzed);
// Of all values on the host of a program, and of all its constants.
inline constexpr int64_t host_elements = int64_t(1) << (26 - fuzzed);
inline constexpr int64_t window = 65535; // stride, padding, dilation, kernel

// The policy.
inline constexpr int64_t prompt_tokens = 65536;
inline constexpr int64_t observation_steps = 64;
inline constexpr int64_t cameras = 64;
inline constexpr int64_t vector_elements = 65536; // of state and action, chunk length, noise
inline constexpr int64_t sampler_steps = 1024;
inline constexpr int64_t image_side = 16384;
inline constexpr int64_t image_pixels = 1 << 25;
inline constexpr float control_rate_hz = 10000;

// JSON and the tokenizer.
inline constexpr size_t json_depth = 64;
inline constexpr size_t text_characters = 1 << 18; // of a prompt, while it is made into tokens
inline constexpr size_t added_tokens = 65536;
inline constexpr int64_t token_id = int64_t(1) << 30;
inline constexpr size_t pattern_characters = 16384;
inline constexpr size_t pattern_depth = 64;
inline constexpr size_t pattern_code = 4096; // instructions that it becomes
inline constexpr uint64_t pattern_steps = uint64_t(1) << (26 - fuzzed); // of one search

// Messages.
inline constexpr size_t message_bytes = 8192;
inline constexpr size_t problem_bytes = 4096;
inline constexpr size_t problems = 16;

} // namespace actquant::limits
