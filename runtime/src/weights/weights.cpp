#include "weights/weights.h"

#include "backend/ggml_guard.h"
#include "common/error.h"
#include "common/limits.h"

#include <ggml-cpu.h>

#include <algorithm>

namespace actquant {
namespace {

template <typename Element> std::vector<double> widen(const FileTensor& tensor) {
    const Element* data = reinterpret_cast<const Element*>(tensor.data);
    return std::vector<double>(data, data + ggml_nelements(tensor.descriptor));
}

// Types that are read as f32, by products, tables and one by one.
bool is_readable_as_f32(ggml_type type) {
    return type == GGML_TYPE_F32 || (ggml_get_type_traits(type)->to_float != nullptr &&
                                     ggml_get_type_traits_cpu(type)->vec_dot != nullptr);
}

void check_type(const std::string& name, ggml_type type) {
    bool is_integer = type == GGML_TYPE_I8 || type == GGML_TYPE_I32 || type == GGML_TYPE_I64;
    if (!is_integer && !is_readable_as_f32(type)) {
        throw FileError("the tensor " + name + " has the type " + ggml_type_name(type) +
                        ", which this runtime does not compute with");
    }
}

// As the file stores it; but where its elements are not in blocks and ggml has room for its logical
// shape, in that shape: unit dimensions that were left out are in their places again.
ggml_tensor* placed(ggml_context* ggml, const FileTensor& stored) {
    Layout layout(stored.shape);
    const ggml_tensor* descriptor = stored.descriptor;
    if (ggml_blck_size(descriptor->type) > 1 || !layout.fits()) {
        return ggml_dup_tensor(ggml, descriptor);
    }
    GgmlShape extents = layout.extents(stored.shape);
    return ggml_new_tensor(ggml, descriptor->type, 4, extents.data());
}

// Whether a device multiplies by a tensor of this type, as it is stored.
bool device_multiplies(const Backend& backend, const ggml_tensor* stored) {
    if (stored->type == GGML_TYPE_F32) {
        return true;
    }
    constexpr int64_t rows = 32;
    std::unique_ptr<ggml_context, decltype(&ggml_free)> scratch(
        ggml_init({4 * ggml_tensor_overhead(), nullptr, true}), ggml_free);
    ggml_tensor* weight = ggml_new_tensor_2d(scratch.get(), stored->type, stored->ne[0],
                                             ggml_nelements(stored) / stored->ne[0]);
    ggml_tensor* x = ggml_new_tensor_2d(scratch.get(), GGML_TYPE_F32, stored->ne[0], rows);
    return backend.device_takes(ggml_mul_mat(scratch.get(), weight, x));
}

} // namespace

Weights::Weights(const ModelFile& model, const Backend& backend, const Reads& reads)
    : file(model), rounded(has_rounded_tensors(model)),
      buffer(backend.place(model.bytes().data(), model.bytes().size())) {
    GgmlGuard guard;
    size_t count = file.tensors().size();
    for (Context* context : {&ggml, &device_ggml}) {
        context->reset(ggml_init({(count + 1) * ggml_tensor_overhead(), nullptr, true}));
    }
    if (!ggml || !device_ggml || !buffer) {
        throw Error("out of memory for " + std::to_string(count) + " weights");
    }
    for (const auto& [name, stored] : file.tensors()) {
        check_type(name, stored.descriptor->type);
        bool for_device = backend.device() != nullptr && reads.whole.count(name) > 0 &&
                          value_dtype(stored.descriptor->type) == DType::f32 &&
                          device_multiplies(backend, stored.descriptor);
        ggml_tensor* tensor = placed(for_device ? device_ggml.get() : ggml.get(), stored);
        if (!for_device) {
            ggml_backend_tensor_alloc(buffer.get(), tensor, stored.data);
        }
        table[name] = {tensor, stored.shape};
    }
    upload(backend);
}

// Once; the file's pages are let go.
void Weights::upload(const Backend& backend) {
    if (backend.device() == nullptr) {
        return;
    }
    ggml_backend_buffer_set_usage(buffer.get(), GGML_BACKEND_BUFFER_USAGE_WEIGHTS);
    device_buffer = backend.allocate_on_device(device_ggml.get());
    for (const auto& [name, weight] : table) {
        if (is_on_device(weight)) {
            const char* data = static_cast<const char*>(file.tensors().at(name).data);
            size_t bytes = ggml_nbytes(weight.tensor);
            ggml_backend_tensor_set(weight.tensor, data, 0, bytes);
            file.bytes().release(data, bytes);
        }
    }
}

size_t Weights::device_bytes() const {
    return device_buffer ? ggml_backend_buffer_get_size(device_buffer.get()) : 0;
}

const Weight* Weights::find(const std::string& name) const {
    auto found = table.find(name);
    return found == table.end() ? nullptr : &found->second;
}

const char* Weights::panels(const ggml_tensor* weight, const PanelKernel& kernel) const {
    bool is_new = !kept_panels.has(weight);
    const char* found = kept_panels.of(weight, kernel);
    if (is_new) {
        file.bytes().release(static_cast<const char*>(weight->data), ggml_nbytes(weight));
    }
    return found;
}

HostValue Weights::read(const std::string& name) const {
    const FileTensor& stored = file.tensors().at(name);
    const ggml_tensor* tensor = stored.descriptor;
    HostValue value{value_dtype(tensor->type), stored.shape, {}};
    if (ggml_nelements(tensor) != element_count(stored.shape)) {
        throw FileError("the tensor " + name +
                        " has padded rows, which only linear and embedding can read");
    }
    if (ggml_nelements(tensor) > limits::value_elements) {
        throw FileError("the tensor " + name + " " + to_string(stored.shape) +
                        " is too large to be read as single numbers");
    }
    switch (tensor->type) {
    case GGML_TYPE_F32:
        value.data = widen<float>(stored);
        break;
    case GGML_TYPE_I64:
        value.data = widen<int64_t>(stored);
        break;
    case GGML_TYPE_I32:
        value.data = widen<int32_t>(stored);
        break;
    case GGML_TYPE_I8:
        value.data = widen<int8_t>(stored);
        break;
    default: {
        ggml_to_float_t to_float = ggml_get_type_traits(tensor->type)->to_float;
        if (to_float == nullptr) {
            throw FileError("the tensor " + name + " of type " + ggml_type_name(tensor->type) +
                            " cannot be read as numbers");
        }
        std::vector<float> floats(ggml_nelements(tensor));
        to_float(stored.data, floats.data(), ggml_nelements(tensor));
        value.data.assign(floats.begin(), floats.end());
    }
    }
    return value;
}

bool has_rounded_tensors(const ModelFile& file) {
    return std::any_of(file.tensors().begin(), file.tensors().end(), [](const auto& entry) {
        ggml_type type = entry.second.descriptor->type;
        return ggml_is_quantized(type) || type == GGML_TYPE_BF16;
    });
}

DType value_dtype(ggml_type type) {
    if (type == GGML_TYPE_I8) {
        return DType::b8;
    }
    return type == GGML_TYPE_I64 || type == GGML_TYPE_I32 ? DType::i64 : DType::f32;
}

} // namespace actquant
