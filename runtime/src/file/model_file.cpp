#include "file/model_file.h"

#include "file/checksums.h"

#include <algorithm>
#include <cstring>
#include <mutex>
#include <sstream>

namespace actquant {
namespace {

constexpr uint32_t format_version = 3;

// ggml explains a damaged file only in its log.
thread_local std::string ggml_complaint;

void keep_complaint(ggml_log_level level, const char* text, void*) {
    if (level == GGML_LOG_LEVEL_ERROR || level == GGML_LOG_LEVEL_CONT) {
        ggml_complaint += text;
    }
}

void listen_to_ggml() {
    static std::once_flag once;
    std::call_once(once, [] { ggml_log_set(keep_complaint, nullptr); });
    ggml_complaint.clear();
}

std::string first_line(const std::string& text) {
    return text.substr(0, text.find('\n'));
}

std::map<std::string, Shape> parse_shapes(const std::string& text, Problems& problems) {
    std::map<std::string, Shape> shapes;
    std::istringstream stream(text);
    for (std::string line; std::getline(stream, line);) {
        if (line.empty()) {
            continue;
        }
        size_t space = line.rfind(' ');
        Shape shape;
        if (space == std::string::npos || !parse_shape(line.substr(space + 1), shape)) {
            problems.add("actquant.shapes: '" + line + "' is not 'name [d0,d1,…]'");
            continue;
        }
        shapes[line.substr(0, space)] = shape;
    }
    return shapes;
}

// Unit dimensions may be left out; a weight of more dimensions may be stored as the matrix [first,
// rest], and the rows of a blocked type may be padded with zeros to whole blocks.
bool shape_fits(const ggml_tensor* tensor, const Shape& shape) {
    Shape stored(tensor->ne, tensor->ne + 4);
    std::reverse(stored.begin(), stored.end());
    stored = without_unit_dimensions(stored);
    if (stored == without_unit_dimensions(shape)) {
        return true;
    }
    if (shape.empty()) {
        return false;
    }
    int64_t block = ggml_blck_size(tensor->type);
    int64_t rows = shape.size() > 1 ? shape.front() : 1;
    int64_t columns = element_count(shape) / rows;
    int64_t padded = (columns + block - 1) / block * block;
    return stored == without_unit_dimensions({rows, padded});
}

} // namespace

ModelFile::ModelFile(const std::string& path) : file_path(path), mapped(path) {
    read_header();
    check_architecture();
    check_header(mapped, gguf());
    list_tensors();
}

void ModelFile::read_header() {
    if (mapped.size() < 4 || std::memcmp(mapped.data(), "GGUF", 4) != 0) {
        throw FileError("'" + file_path + "' is not a GGUF file");
    }
    listen_to_ggml();
    ggml_context* raw_descriptors = nullptr;
    context.reset(gguf_init_from_file(file_path.c_str(), {true, &raw_descriptors}));
    descriptors.reset(raw_descriptors);
    if (!context) {
        throw FileError("'" + file_path +
                        "' is damaged or truncated: " + first_line(ggml_complaint));
    }
}

void ModelFile::check_architecture() const {
    auto string_of = [&](const char* key) -> std::string {
        int64_t id = gguf_find_key(gguf(), key);
        bool is_string = id >= 0 && gguf_get_kv_type(gguf(), id) == GGUF_TYPE_STRING;
        return is_string ? gguf_get_val_str(gguf(), id) : "";
    };
    std::string architecture = string_of("general.architecture");
    if (architecture != "actquant") {
        throw FileError("'" + file_path + "' is a GGUF of the architecture '" + architecture +
                        "', not a policy written by actquant");
    }
    int64_t id = gguf_find_key(gguf(), "actquant.format_version");
    if (id < 0 || gguf_get_kv_type(gguf(), id) != GGUF_TYPE_UINT32) {
        throw FileError("'" + file_path + "' lacks the key actquant.format_version (u32)");
    }
    uint32_t version = gguf_get_val_u32(gguf(), id);
    if (version != format_version) {
        std::string remedy = version > format_version ? "Update actquant." : "Compress it again.";
        throw FileError("'" + file_path + "' has format version " + std::to_string(version) +
                        "; this runtime reads version " + std::to_string(format_version) + ". " +
                        remedy);
    }
}

void ModelFile::list_tensors() {
    Problems problems;
    auto shapes = parse_shapes(KeyReader(*this, problems).string("actquant.shapes"), problems);
    size_t data_offset = gguf_get_data_offset(gguf());
    size_t missing_bytes = 0;
    for (int64_t id = 0; id < gguf_get_n_tensors(gguf()); id++) {
        size_t end =
            data_offset + gguf_get_tensor_offset(gguf(), id) + gguf_get_tensor_size(gguf(), id);
        missing_bytes = std::max(missing_bytes, end > mapped.size() ? end - mapped.size() : 0);
    }
    if (missing_bytes > 0) {
        throw FileError("'" + file_path + "' is truncated: " + std::to_string(missing_bytes) +
                        " bytes of tensor data are missing");
    }
    for (int64_t id = 0; id < gguf_get_n_tensors(gguf()); id++) {
        std::string name = gguf_get_tensor_name(gguf(), id);
        ggml_tensor* tensor = ggml_get_tensor(descriptors.get(), name.c_str());
        auto shape = shapes.find(name);
        if (shape == shapes.end()) {
            problems.add("actquant.shapes does not list the tensor " + name);
        } else if (!shape_fits(tensor, shape->second)) {
            Shape stored(tensor->ne, tensor->ne + 4);
            problems.add("the tensor " + name + " is stored as " +
                         to_string(Shape(stored.rbegin(), stored.rend())) +
                         ", which does not fit its shape " + to_string(shape->second));
        } else {
            char* address = mapped.data() + data_offset + gguf_get_tensor_offset(gguf(), id);
            tensor_table[name] = {tensor, shape->second, address};
        }
    }
    problems.throw_if_any("'" + file_path + "' is not a valid policy:");
}

void ModelFile::check_tensors() const {
    actquant::check_tensors(mapped, gguf());
}

const FileTensor* ModelFile::find_tensor(const std::string& name) const {
    auto found = tensor_table.find(name);
    return found == tensor_table.end() ? nullptr : &found->second;
}

int64_t KeyReader::find(const std::string& key, gguf_type type) {
    int64_t id = gguf_find_key(gguf, key.c_str());
    if (id < 0) {
        noted.add("the key " + key + " (" + gguf_type_name(type) + ") is missing");
    } else if (gguf_get_kv_type(gguf, id) != type) {
        noted.add("the key " + key + " is " + gguf_type_name(gguf_get_kv_type(gguf, id)) +
                  ", expected " + gguf_type_name(type));
        id = -1;
    }
    return id;
}

int64_t KeyReader::find_array(const std::string& key, gguf_type type) {
    int64_t id = gguf_find_key(gguf, key.c_str());
    if (id >= 0 &&
        (gguf_get_kv_type(gguf, id) != GGUF_TYPE_ARRAY || gguf_get_arr_type(gguf, id) != type)) {
        noted.add("the key " + key + " is no array of " + gguf_type_name(type));
        id = -1;
    }
    return id;
}

std::string_view KeyReader::view(const std::string& key) {
    int64_t id = find(key, GGUF_TYPE_STRING);
    return id < 0 ? "" : gguf_get_val_str(gguf, id);
}

uint32_t KeyReader::u32(const std::string& key) {
    int64_t id = find(key, GGUF_TYPE_UINT32);
    return id < 0 ? 0 : gguf_get_val_u32(gguf, id);
}

uint64_t KeyReader::u64(const std::string& key) {
    int64_t id = find(key, GGUF_TYPE_UINT64);
    return id < 0 ? 0 : gguf_get_val_u64(gguf, id);
}

float KeyReader::f32(const std::string& key) {
    int64_t id = find(key, GGUF_TYPE_FLOAT32);
    return id < 0 ? 0 : gguf_get_val_f32(gguf, id);
}

std::vector<std::string> KeyReader::strings(const std::string& key) {
    int64_t id = find_array(key, GGUF_TYPE_STRING);
    std::vector<std::string> values;
    for (size_t k = 0; id >= 0 && k < gguf_get_arr_n(gguf, id); k++) {
        values.emplace_back(gguf_get_arr_str(gguf, id, k));
    }
    return values;
}

std::vector<float> KeyReader::floats(const std::string& key) {
    int64_t id = find_array(key, GGUF_TYPE_FLOAT32);
    if (id < 0) {
        return {};
    }
    const float* data = static_cast<const float*>(gguf_get_arr_data(gguf, id));
    return std::vector<float>(data, data + gguf_get_arr_n(gguf, id));
}

std::vector<int64_t> KeyReader::u32s(const std::string& key) {
    int64_t id = find_array(key, GGUF_TYPE_UINT32);
    if (id < 0) {
        return {};
    }
    const uint32_t* data = static_cast<const uint32_t*>(gguf_get_arr_data(gguf, id));
    return std::vector<int64_t>(data, data + gguf_get_arr_n(gguf, id));
}

bool KeyReader::has(const std::string& key) const {
    return gguf_find_key(gguf, key.c_str()) >= 0;
}

} // namespace actquant
