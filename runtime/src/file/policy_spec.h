#pragma once

#include "file/model_file.h"
#include "inputs/image.h"
#include "inputs/prompt.h"
#include "program/program.h"

#include <map>
#include <string>
#include <string_view>
#include <vector>

namespace actquant {

// One end of the policy: how its numbers are laid out and normalised.
struct VectorSpec {
    std::vector<std::string> names;
    std::vector<float> mean;
    std::vector<float> standard_deviation;
    int64_t padded_dim = 0;

    int64_t dim() const { return static_cast<int64_t>(names.size()); }
};

// One row of actquant.sampler.coefficients (docs/format.md, "The driver `sampling`").
struct SamplerStep {
    float from_x = 0;
    float from_output = 0;
    float clip = 0;
    float next_from_x0 = 0;
    float next_from_x = 0;
    float next_from_output = 0;
    float fresh = 0;
    float initial = 0;
};
inline constexpr size_t sampler_columns = 8;

struct SamplerSpec {
    std::vector<float> timesteps;
    std::vector<SamplerStep> steps; // empty: a policy that does not sample
    int64_t noise_rows = 0;
    int64_t noise_dim = 0;

    // How many steps draw noise of their own.
    int64_t fresh_count() const;
    // [rows, dim], [1 + fresh, rows, dim] where steps draw noise, [0] without a sampler.
    Shape noise_shape() const;
};

// Everything the keys of a file say.
struct PolicySpec {
    std::string name;
    std::string family;
    uint64_t parameter_count = 0;
    std::string driver;
    SamplerSpec sampler;
    std::vector<std::string> cameras;
    int64_t optional_cameras = 0;
    int64_t observation_steps = 0;
    ImageSpec image;
    std::vector<std::string> image_steps; // as in the file
    int64_t image_source_height = 0;
    int64_t image_source_width = 0;
    bool has_language = false;
    PromptSpec prompt;
    // In the mapped file's header; valid as long as the ModelFile.
    std::string_view tokenizer_json;
    VectorSpec state;
    VectorSpec action;
    float state_clip = 0; // 0: not clamped
    double normalization_eps = 0;
    int64_t chunk_length = 0;
    int64_t steps_per_chunk = 0;
    double control_rate_hz = 0;
    std::string provenance;
    std::string allocation;
    std::string golden;
    std::map<std::string, ProgramTemplate> programs;

    int64_t image_count() const { return observation_steps * static_cast<int64_t>(cameras.size()); }
    // The prompt lengths that a call can have, both 0 without language.
    int64_t min_prompt_length() const;
    int64_t max_prompt_length() const;
};

// Throws FileError with every missing key and tensor at once.
PolicySpec read_policy_spec(const ModelFile& file);

} // namespace actquant
