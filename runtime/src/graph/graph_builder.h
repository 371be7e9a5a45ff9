#pragma once

#include "backend/backend.h"
#include "program/program.h"
#include "weights/weights.h"

#include <ggml.h>

#include <initializer_list>
#include <map>
#include <memory>
#include <set>
#include <string>
#include <tuple>
#include <utility>
#include <vector>

namespace actquant {

// How a host value enters the device graph.
enum class Role {
    values,  // f32
    indices, // i32, below `limit`
    mask,    // f32: 0 where attention is allowed, very negative where not
};

// An input of the device graph that is filled from a host value.
struct Boundary {
    std::string value;
    Role role = Role::values;
    ggml_tensor* tensor = nullptr;
    // What the value is broadcast to before it is written (masks), else its own shape.
    Shape shape;
    // First invalid index.
    int64_t limit = 0;
    bool causal = false;
};

// An input of the device graph that never changes.
struct Constant {
    ggml_tensor* tensor = nullptr;
    std::vector<float> data;
};

// Builds the ggml graph of one stage. Operators take their operands from here and append nodes to
// `ggml`. Every tensor holds its value's elements in row-major order of the value's Layout, but may
// be a strided view.
class GraphBuilder {
  public:
    // in_loop: the graph runs many times for one action.
    GraphBuilder(ggml_context* ggml, const Weights& weights, const Backend& backend, bool in_loop)
        : ggml(ggml), isa(backend.isa()), threads(backend.threads()), pool(backend.pool()),
          on_device(backend.device() != nullptr), rounded(weights.are_rounded()), in_loop(in_loop),
          weights(weights) {}

    ggml_context* const ggml;
    const Isa isa;
    const int threads;
    // See Backend::pool.
    WorkPool* const pool;
    // Whether the graph is for a device: of ggml's operators alone, as far as it has them.
    const bool on_device;
    // Whether activations may be rounded to fewer bits than f32 has.
    const bool rounded;
    const bool in_loop;

    // Keeps what a node's function needs as long as the graph.
    template <typename Kept> Kept* keep(Kept value) {
        auto owned = std::make_shared<Kept>(std::move(value));
        kept.push_back(owned);
        return owned.get();
    }

    // What computes the instruction that is being built, for Profile: ggml but where an operator
    // names a kernel.
    std::string kernel = "ggml";

    // Declares where a value lives before the instructions that use it are built.
    void define_host(const std::string& value, DType dtype, const Shape& shape);
    void define_device(const std::string& value, const Shape& shape, ggml_tensor* tensor);
    // What an operator cannot do with its operands is refused in the instruction's name, at the
    // latest by what reshaped, repeated and new_input check.
    void build(const Instruction& instruction);

    bool is_on_device(const std::string& value) const { return device_values.count(value) > 0; }
    const Shape& shape_of(const Instruction& instruction, size_t operand) const;
    DType dtype_of(const Instruction& instruction, size_t operand) const;

    // The operand as an f32 tensor.
    ggml_tensor* tensor(const Instruction& instruction, size_t operand);
    // The operand's weight as it is placed (any type, rows possibly padded).
    const Weight& weight(const Instruction& instruction, size_t operand) const;
    ggml_tensor* indices(const Instruction& instruction, size_t operand, int64_t limit);
    // An additive f32 mask of exactly `shape`, [batch or 1, heads or 1, rows, columns].
    ggml_tensor* mask(const Instruction& instruction, size_t operand, const Shape& shape,
                      bool causal);
    // Refuses one that is larger than all constants of a stage may be, before it is made.
    void check_constant(const Shape& shape) const;
    ggml_tensor* constant(std::vector<float> data, const Shape& shape);
    // The file's tensor as host values (for small constants that an operator transforms).
    HostValue host_constant(const Instruction& instruction, size_t operand) const;

    ggml_tensor* new_input(const Shape& shape, ggml_type type = GGML_TYPE_F32);
    // ggml's product of matrices, with sums in f32 on every device.
    ggml_tensor* product(ggml_tensor* weight, ggml_tensor* x);
    ggml_tensor* contiguous(ggml_tensor* tensor);
    // Contiguous at least along each row, as most of ggml's operators want it.
    ggml_tensor* contiguous_rows(ggml_tensor* tensor);
    ggml_tensor* reshaped(ggml_tensor* tensor, const GgmlShape& extents);
    ggml_tensor* repeated(ggml_tensor* tensor, const GgmlShape& extents);
    // Refuses what an operator would need between its operands and its result, where that has more
    // elements than a value may have.
    void check_size(std::initializer_list<int64_t> extents) const;

    // What makes each value of the program, and how often it is read.
    void count_uses(const Program& program);
    // Whether the operand is the result of such an operator, itself and not a view of it, and
    // nothing but this instruction reads it.
    bool is_only_reader(const Instruction& instruction, size_t operand,
                        const std::string& op) const;
    // What a kernel made of x, for all that read the same elements; null where nothing was made
    // yet.
    ggml_tensor*& derived(const ggml_tensor* x, const void* kernel);
    // A weight's panels, kept from action to action.
    const char* panels(const ggml_tensor* weight, const PanelKernel& kernel) {
        return weights.panels(weight, kernel);
    }

    const std::vector<Boundary>& boundaries() const { return boundary_list; }
    const std::vector<Constant>& constants() const { return constant_list; }

  private:
    struct HostType {
        DType dtype;
        Shape shape;
    };

    ggml_tensor* boundary(const Boundary& wanted, ggml_type type);
    [[noreturn]] void fail(const std::string& problem) const;
    void check_operands(const Instruction& instruction) const;
    ggml_tensor* file_values(const std::string& name);

    const Weights& weights;
    const Instruction* current = nullptr; // the one that is being built
    std::map<std::string, HostType> host_values;
    std::map<std::string, ggml_tensor*> device_values;
    std::map<std::string, Shape> device_shapes;
    std::vector<Boundary> boundary_list;
    std::vector<Constant> constant_list;
    int64_t constant_elements = 0;
    std::vector<std::shared_ptr<void>> kept;
    std::map<std::string, int> uses;
    std::map<std::string, std::string> made_by;
    // By the tensor that owns the elements, where they begin, their extents, and the kernel.
    std::map<std::tuple<const ggml_tensor*, size_t, int64_t, int64_t, const void*>, ggml_tensor*>
        derived_tensors;
};

GgmlShape ggml_extents(const Shape& shape);
std::string to_string(const GgmlShape& extents);

} // namespace actquant
