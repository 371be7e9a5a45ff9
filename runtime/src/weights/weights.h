#pragma once

#include "backend/backend.h"
#include "file/model_file.h"
#include "program/host_value.h"
#include "weights/panels.h"
#include "weights/reads.h"

#include <ggml.h>

#include <map>
#include <memory>
#include <string>

namespace actquant {

// A tensor of the file where the backend can read it: any type, rows possibly padded.
struct Weight {
    ggml_tensor* tensor = nullptr;
    Shape shape; // logical
};

// The weights of a policy, placed for its backend. An operator asks for a weight here and never
// touches the file's mapping. Every weight is a view of it, and some are unpacked beside it. With a
// device, those that it computes with are uploaded to it instead.
class Weights {
  public:
    // All must outlive the weights. reads: how the programs read them.
    Weights(const ModelFile& file, const Backend& backend, const Reads& reads);

    // Null if the file has no such tensor.
    const Weight* find(const std::string& name) const;
    // Whether some have fewer bits than f16: activations may then be rounded too.
    bool are_rounded() const { return rounded; }
    // A weight unpacked for a kernel, kept from then on; the file's pages are let go.
    const char* panels(const ggml_tensor* weight, const PanelKernel& kernel) const;
    size_t panels_bytes() const { return kept_panels.bytes(); }
    size_t device_bytes() const;
    bool is_on_device(const Weight& weight) const {
        return !ggml_backend_buffer_is_host(weight.tensor->buffer);
    }
    bool has_panels(const Weight& weight) const { return kept_panels.has(weight.tensor); }
    // A tensor as host values, for small constants and for what the host computes with.
    HostValue read(const std::string& name) const;

  private:
    struct GgmlDeleter {
        void operator()(ggml_context* ggml) const { ggml_free(ggml); }
    };

    using Context = std::unique_ptr<ggml_context, GgmlDeleter>;

    void upload(const Backend& backend);

    const ModelFile& file;
    bool rounded;
    BufferPointer buffer;
    BufferPointer device_buffer; // null without a device
    Context ggml, device_ggml;
    std::map<std::string, Weight> table;
    mutable Panels kept_panels;
};

// Whether some tensor of the file has fewer bits than f16.
bool has_rounded_tensors(const ModelFile& file);

// What a program sees of a tensor stored in this type: i8 as b8, other integers as i64, all else as
// f32.
DType value_dtype(ggml_type type);

} // namespace actquant
