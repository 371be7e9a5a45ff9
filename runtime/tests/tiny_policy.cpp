#include "tiny_policy.h"

#include "check.h"
#include "file/checksums.h"

#include <ggml.h>
#include <gguf.h>

#include <algorithm>
#include <cstring>
#include <fstream>
#include <iterator>
#include <vector>

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
        {"actquant.format_version", 3},
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

// Writes the checksum of the keys, whose value is 0 until then.
static void seal_header(const char* path, size_t header_bytes) {
    std::ifstream source(path, std::ios::binary);
    std::string bytes{std::istreambuf_iterator<char>(source), {}};
    size_t place = actquant::find_header_checksum(bytes.data(), header_bytes);
    uint64_t value = actquant::checksum(bytes.data(), header_bytes);
    std::memcpy(&bytes[place], &value, sizeof(value));
    std::ofstream(path, std::ios::binary) << bytes;
}

void write_tiny_policy(const char* path) {
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
    uint64_t checksum = actquant::checksum(values, sizeof(values));
    gguf_set_arr_data(file, "actquant.checksum.tensors", GGUF_TYPE_UINT64, &checksum, 1);
    gguf_set_val_u64(file, "actquant.checksum.header", 0);
    CHECK(gguf_write_to_file(file, path, false));
    seal_header(path, gguf_get_meta_size(file));
    ggml_free(tensors);
    gguf_free(file);
}
