#include "golden.h"

#include "golden/self_test.h"

#include <nanobind/ndarray.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/vector.h>

namespace nb = nanobind;
using namespace nb::literals;

namespace {

template <typename Element>
nb::ndarray<nb::numpy, Element, nb::ndim<1>> to_numpy(std::vector<Element> data) {
    auto* owned = new std::vector<Element>(std::move(data));
    nb::capsule owner(
        owned, [](void* pointer) noexcept { delete static_cast<std::vector<Element>*>(pointer); });
    return nb::ndarray<nb::numpy, Element, nb::ndim<1>>(owned->data(), {owned->size()}, owner);
}

nb::tuple golden_inputs(size_t steps, size_t cameras, int64_t height, int64_t width,
                        const std::vector<double>& state_mean,
                        const std::vector<double>& state_deviation, size_t noise_count,
                        uint64_t seed) {
    actquant::GoldenInputs inputs = actquant::make_golden_inputs(
        {steps, cameras, height, width, state_mean, state_deviation, noise_count}, seed);
    return nb::make_tuple(to_numpy(std::move(inputs.pixels)), to_numpy(std::move(inputs.state)),
                          to_numpy(std::move(inputs.noise)));
}

nb::dict self_test(actquant::Session& session) {
    actquant::SelfTest found;
    {
        nb::gil_scoped_release release;
        found = actquant::run_self_test(session);
    }
    nb::dict result;
    result["passed"] = found.passed;
    result["inputs"] = found.inputs;
    result["mean"] = found.stored.mean;
    result["worst"] = found.stored.worst;
    result["limit"] = found.limit;
    result["reference_mean"] = found.reference.mean;
    result["reference_worst"] = found.reference.worst;
    return result;
}

} // namespace

void bind_golden(nb::module_& module) {
    module.def("golden_inputs", golden_inputs, "steps"_a, "cameras"_a, "height"_a, "width"_a,
               "state_mean"_a, "state_deviation"_a, "noise_count"_a, "seed"_a);
    module.def("self_test", self_test, "session"_a);
}
