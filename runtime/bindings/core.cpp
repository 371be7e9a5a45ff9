// The native half of actquant_runtime: sessions. Python prepares the observation.
#include "api/build_info.h"
#include "api/session.h"
#include "backend/devices.h"
#include "common/error.h"
#include "file/checksums.h"
#include "golden.h"
#include "images.h"
#include "quantization.h"
#include "tokenization.h"

#include <nanobind/ndarray.h>
#include <nanobind/stl/map.h>
#include <nanobind/stl/optional.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/vector.h>

#include <cstring>

namespace nb = nanobind;
using namespace nb::literals;

namespace {

using Image = nb::ndarray<const uint8_t, nb::shape<-1, -1, 3>, nb::c_contig, nb::device::cpu>;
using Floats = nb::ndarray<const float, nb::c_contig, nb::device::cpu>;
using Bytes = nb::ndarray<const uint8_t, nb::ndim<1>, nb::c_contig, nb::device::cpu>;
using AnyArray = nb::ndarray<nb::ro, nb::c_contig, nb::device::cpu>;

// Hands a vector's memory to NumPy.
template <typename Element>
nb::ndarray<nb::numpy, Element> to_numpy(std::vector<Element> data,
                                         const std::vector<size_t>& shape) {
    auto* owned = new std::vector<Element>(std::move(data));
    nb::capsule owner(
        owned, [](void* pointer) noexcept { delete static_cast<std::vector<Element>*>(pointer); });
    return nb::ndarray<nb::numpy, Element>(owned->data(), shape.size(), shape.data(), owner);
}

template <typename Element> std::vector<Element> to_vector(const Element* data, size_t count) {
    return std::vector<Element>(data, data + count);
}

actquant::ArrayView view_of(const std::string& name, const AnyArray& array) {
    actquant::ArrayView view;
    for (size_t k = 0; k < array.ndim(); k++) {
        view.shape.push_back(static_cast<int64_t>(array.shape(k)));
    }
    view.data = array.data();
    if (array.dtype() == nb::dtype<float>()) {
        view.dtype = actquant::DType::f32;
    } else if (array.dtype() == nb::dtype<int64_t>()) {
        view.dtype = actquant::DType::i64;
    } else if (array.dtype() == nb::dtype<bool>()) {
        view.dtype = actquant::DType::b8;
    } else {
        throw actquant::ArgumentError("the input " + name + " must be float32, int64 or bool");
    }
    return view;
}

nb::object to_numpy(actquant::Array& array) {
    std::vector<size_t> shape(array.shape.begin(), array.shape.end());
    size_t count = static_cast<size_t>(actquant::element_count(array.shape));
    switch (array.dtype) {
    case actquant::DType::f32:
        return nb::cast(to_numpy(to_vector(array.as<float>(), count), shape));
    case actquant::DType::i64:
        return nb::cast(to_numpy(to_vector(array.as<int64_t>(), count), shape));
    case actquant::DType::b8:
        return nb::cast(to_numpy(to_vector(array.as<uint8_t>(), count), shape))
            .attr("astype")("bool");
    }
    return nb::none();
}

actquant::Observation observation_of(const std::vector<std::optional<Image>>& images,
                                     const Floats& state, const std::optional<std::string>& task) {
    actquant::Observation observation;
    for (const std::optional<Image>& image : images) {
        observation.images.push_back(
            image ? actquant::ImageView{image->data(), static_cast<int64_t>(image->shape(0)),
                                        static_cast<int64_t>(image->shape(1))}
                  : actquant::ImageView{});
    }
    observation.state = to_vector(state.data(), state.size());
    observation.task = task;
    return observation;
}

nb::ndarray<nb::numpy, float> act(actquant::Session& session,
                                  const std::vector<std::optional<Image>>& images,
                                  const Floats& state, const std::optional<std::string>& task,
                                  const std::optional<Floats>& noise, std::optional<uint64_t> seed,
                                  const std::optional<actquant::PreviousChunk>& previous) {
    actquant::Observation observation = observation_of(images, state, task);
    std::vector<float> noise_values;
    if (noise) {
        noise_values = to_vector(noise->data(), noise->size());
    }
    std::vector<float> actions;
    {
        nb::gil_scoped_release release;
        actions = session.act(observation, std::move(noise_values), seed, previous);
    }
    const actquant::PolicySpec& policy = session.policy();
    return to_numpy(std::move(actions), {static_cast<size_t>(policy.chunk_length),
                                         static_cast<size_t>(policy.action.dim())});
}

void make_previous_chunk(actquant::PreviousChunk* self, const Floats& actions, int64_t delay,
                         int64_t execution_horizon, double max_guidance,
                         const std::string& schedule) {
    new (self)
        actquant::PreviousChunk{to_vector(actions.data(), actions.size()), delay, execution_horizon,
                                max_guidance, actquant::parse_schedule(schedule)};
}

nb::ndarray<nb::numpy, int64_t> tokenize(const actquant::Session& session, const std::string& task,
                                         const Floats& state) {
    std::vector<int64_t> tokens = session.tokenize(task, to_vector(state.data(), state.size()));
    std::vector<size_t> shape = {tokens.size()};
    return to_numpy(std::move(tokens), shape);
}

nb::dict run_stage(actquant::Session& session, const std::string& stage,
                   const std::map<std::string, AnyArray>& inputs) {
    std::map<std::string, actquant::ArrayView> views;
    for (const auto& [name, array] : inputs) {
        views[name] = view_of(name, array);
    }
    std::map<std::string, actquant::Array> outputs;
    {
        nb::gil_scoped_release release;
        outputs = session.run_stage(stage, views);
    }
    nb::dict result;
    for (auto& [name, array] : outputs) {
        result[name.c_str()] = to_numpy(array);
    }
    return result;
}

std::string profile(actquant::Session& session, const std::vector<std::optional<Image>>& images,
                    const Floats& state, const std::optional<std::string>& task, int runs) {
    actquant::Observation observation = observation_of(images, state, task);
    nb::gil_scoped_release release;
    return session.profile(observation, runs);
}

std::map<std::string, double> timings_ms(const actquant::Session& session) {
    actquant::Timings timings = session.timings();
    return {{"vision", timings.vision_ms},
            {"prefix", timings.prefix_ms},
            {"denoise", timings.denoise_ms},
            {"total", timings.total_ms}};
}

template <typename Exception>
void add_exception(nb::module_& module, const char* name, PyObject* base) {
    auto translate = [](const std::exception_ptr& thrown, void* type) {
        try {
            std::rethrow_exception(thrown);
        } catch (const Exception& error) {
            PyErr_SetString(static_cast<PyObject*>(type), error.what());
        }
    };
    nb::exception<Exception> type(module, name, base);
    nb::register_exception_translator(translate, type.ptr());
}

} // namespace

NB_MODULE(_core, module) {
    actquant::check_cpu();
    add_exception<actquant::FileError>(module, "ModelFileError", PyExc_RuntimeError);
    add_exception<actquant::ArgumentError>(module, "ArgumentError", PyExc_ValueError);
    nb::class_<actquant::PreviousChunk>(module, "PreviousChunk")
        .def("__init__", make_previous_chunk, "actions"_a, "delay"_a, "execution_horizon"_a,
             "max_guidance"_a, "schedule"_a);
    nb::class_<actquant::Session>(module, "Session")
        .def(nb::init<const std::string&, int, const std::string&>(), "path"_a, "threads"_a,
             "device"_a = "cpu", nb::call_guard<nb::gil_scoped_release>())
        .def("describe", &actquant::Session::describe)
        .def("tokenize", tokenize, "task"_a, "state"_a)
        .def("act", act, "images"_a, "state"_a, "task"_a.none(), "noise"_a.none(), "seed"_a.none(),
             "previous"_a = nb::none())
        .def("run_stage", run_stage, "stage"_a, "inputs"_a)
        .def("profile", profile, "images"_a, "state"_a, "task"_a.none(), "runs"_a)
        .def("timings_ms", timings_ms)
        .def("lost_tokens", &actquant::Session::lost_tokens);
    module.def("build_info", actquant::build_info);
    module.def(
        "find_device", [](const std::string& name) { return actquant::find_device(name).name; },
        "name"_a);
    module.def(
        "check_header", [](const std::string& path) { actquant::ModelFile file(path); }, "path"_a);
    module.def(
        "checksum", [](const Bytes& data) { return actquant::checksum(data.data(), data.size()); },
        "data"_a, nb::call_guard<nb::gil_scoped_release>());
    bind_golden(module);
    bind_images(module);
    bind_quantization(module);
    bind_tokenization(module);
}
