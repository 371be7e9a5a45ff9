#include "file/model_file.h"

#include <ggml-cpu.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <fcntl.h>
#include <mutex>
#include <sstream>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

namespace actquant {
namespace {

constexpr uint32_t format_version = 2;

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

ModelFile::ModelFile(const std::string& path) : file_path(path) {
    try {
        map_file();
        read_header();
        check_architecture();
        attach_tensors();
    } catch (...) {
        if (mapped != nullptr) {
            munmap(mapped, mapped_bytes);
        }
        throw;
    }
}

ModelFile::~ModelFile() {
    buffer.reset();
    munmap(mapped, mapped_bytes);
}

void ModelFile::map_file() {
    int descriptor = ::open(file_path.c_str(), O_RDONLY | O_CLOEXEC);
    struct stat status = {};
    if (descriptor < 0 || fstat(descriptor, &status) != 0) {
        std::string reason = std::strerror(errno);
        if (descriptor >= 0) {
            ::close(descriptor);
        }
        throw FileError("cannot open the model file '" + file_path + "': " + reason);
    }
    mapped_bytes = static_cast<size_t>(status.st_size);
    void* address = MAP_FAILED;
    if (S_ISREG(status.st_mode) && mapped_bytes > 0) {
        address = mmap(nullptr, mapped_bytes, PROT_READ, MAP_SHARED, descriptor, 0);
    }
    ::close(descriptor);
    if (address == MAP_FAILED) {
        throw FileError("cannot read the model file '" + file_path +
                        "': it is empty or no regular file");
    }
    mapped = address;
    // The weights are needed at the first action: have them read in the background now.
    madvise(mapped, mapped_bytes, MADV_WILLNEED);
}

void ModelFile::read_header() {
    if (mapped_bytes < 4 || std::memcmp(mapped, "GGUF", 4) != 0) {
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

void ModelFile::attach_tensors() {
    Problems problems;
    auto shapes = parse_shapes(KeyReader(*this, problems).string("actquant.shapes"), problems);
    size_t data_offset = gguf_get_data_offset(gguf());
    char* base = static_cast<char*>(mapped);
    size_t missing_bytes = 0;
    for (int64_t id = 0; id < gguf_get_n_tensors(gguf()); id++) {
        size_t end =
            data_offset + gguf_get_tensor_offset(gguf(), id) + gguf_get_tensor_size(gguf(), id);
        missing_bytes = std::max(missing_bytes, end > mapped_bytes ? end - mapped_bytes : 0);
    }
    if (missing_bytes > 0) {
        throw FileError("'" + file_path + "' is truncated: " + std::to_string(missing_bytes) +
                        " bytes of tensor data are missing");
    }
    buffer.reset(ggml_backend_cpu_buffer_from_ptr(mapped, mapped_bytes));
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
            char* address = base + data_offset + gguf_get_tensor_offset(gguf(), id);
            ggml_backend_tensor_alloc(buffer.get(), tensor, address);
            tensor_table[name] = {tensor, shape->second};
        }
    }
    problems.throw_if_any("'" + file_path + "' is not a valid policy:");
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

namespace {

template <typename Element> std::vector<double> widen(const ggml_tensor* tensor) {
    const Element* data = static_cast<const Element*>(tensor->data);
    return std::vector<double>(data, data + ggml_nelements(tensor));
}

} // namespace

DType value_dtype(ggml_type type) {
    if (type == GGML_TYPE_I8) {
        return DType::b8;
    }
    return type == GGML_TYPE_I64 || type == GGML_TYPE_I32 ? DType::i64 : DType::f32;
}

HostValue read_on_host(const std::string& name, const FileTensor& file_tensor) {
    const ggml_tensor* tensor = file_tensor.tensor;
    HostValue value{value_dtype(tensor->type), file_tensor.shape, {}};
    switch (tensor->type) {
    case GGML_TYPE_F32:
        value.data = widen<float>(tensor);
        break;
    case GGML_TYPE_I64:
        value.data = widen<int64_t>(tensor);
        break;
    case GGML_TYPE_I32:
        value.data = widen<int32_t>(tensor);
        break;
    case GGML_TYPE_I8:
        value.data = widen<int8_t>(tensor);
        break;
    default: {
        ggml_to_float_t to_float = ggml_get_type_traits(tensor->type)->to_float;
        if (to_float == nullptr || tensor->ne[0] != ggml_nelements(tensor) / ggml_nrows(tensor)) {
            throw FileError("the tensor " + name + " of type " + ggml_type_name(tensor->type) +
                            " cannot be read as numbers");
        }
        std::vector<float> floats(ggml_nelements(tensor));
        to_float(tensor->data, floats.data(), ggml_nelements(tensor));
        value.data.assign(floats.begin(), floats.end());
    }
    }
    return value;
}

} // namespace actquant
