#pragma once

#include "image.h"
#include "model_file.h"
#include "program.h"

#include <map>
#include <string>
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

// Everything the keys of a file say.
struct PolicySpec {
    std::string name;
    std::string family;
    uint64_t parameter_count = 0;
    std::string driver;
    int64_t num_steps = 0;
    std::vector<std::string> cameras;
    int64_t optional_cameras = 0;
    ImageSpec image;
    std::string tokenizer_json;
    int64_t max_prompt_length = 0;
    int64_t pad_token = 0;
    std::string prompt_suffix;
    VectorSpec state;
    VectorSpec action;
    double normalization_eps = 0;
    int64_t chunk_length = 0;
    int64_t steps_per_chunk = 0;
    double control_rate_hz = 0;
    std::string provenance;
    std::string allocation;
    std::string golden;
    std::map<std::string, Program> programs;
};

// Throws FileError with every missing key and tensor at once.
PolicySpec read_policy_spec(const ModelFile& file);

} // namespace actquant
