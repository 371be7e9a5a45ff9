#pragma once

#include "common/error.h"
#include "file/mapped_file.h"
#include "program/shape.h"

#include <ggml.h>
#include <gguf.h>

#include <map>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

namespace actquant {

// A tensor of the file: ggml's descriptor, which has no data, its logical shape and its bytes in
// the mapping.
struct FileTensor {
    const ggml_tensor* descriptor = nullptr;
    Shape shape;
    char* data = nullptr; // not to be written
};

// A GGUF file and what its header says. Opening it refuses what is no whole GGUF of ours.
class ModelFile {
  public:
    explicit ModelFile(const std::string& path);

    const std::string& path() const { return file_path; }
    size_t size_bytes() const { return mapped.size(); }
    const MappedFile& bytes() const { return mapped; }
    const gguf_context* gguf() const { return context.get(); }
    const std::map<std::string, FileTensor>& tensors() const { return tensor_table; }
    const FileTensor* find_tensor(const std::string& name) const;
    // Reads every tensor. Throws FileError if one does not have its checksum.
    void check_tensors() const;

  private:
    struct GgufDeleter {
        void operator()(gguf_context* gguf) const { gguf_free(gguf); }
    };
    struct GgmlDeleter {
        void operator()(ggml_context* ggml) const { ggml_free(ggml); }
    };

    void read_header();
    void check_architecture() const;
    void list_tensors();

    std::string file_path;
    MappedFile mapped;
    std::unique_ptr<gguf_context, GgufDeleter> context;
    std::unique_ptr<ggml_context, GgmlDeleter> descriptors;
    std::map<std::string, FileTensor> tensor_table;
};

// Typed access to a file's keys. A missing key or one of another type is noted in `problems` and
// reads as an empty value. A list may be missing: it is empty.
class KeyReader {
  public:
    KeyReader(const ModelFile& file, Problems& problems) : gguf(file.gguf()), noted(problems) {}

    std::string string(const std::string& key) { return std::string(view(key)); }
    // Valid as long as the ModelFile.
    std::string_view view(const std::string& key);
    uint32_t u32(const std::string& key);
    uint64_t u64(const std::string& key);
    float f32(const std::string& key);
    std::vector<std::string> strings(const std::string& key);
    std::vector<float> floats(const std::string& key);
    std::vector<int64_t> u32s(const std::string& key);
    bool has(const std::string& key) const;

  private:
    int64_t find(const std::string& key, gguf_type type);
    // -1 when the list is missing or of another type.
    int64_t find_array(const std::string& key, gguf_type type);

    const gguf_context* gguf;
    Problems& noted;
};

} // namespace actquant
