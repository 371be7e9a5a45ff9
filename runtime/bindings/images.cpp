#include "images.h"

#include "inputs/image.h"

#include <nanobind/ndarray.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/vector.h>

namespace nb = nanobind;
using namespace nb::literals;

namespace {

using Image = nb::ndarray<const uint8_t, nb::shape<-1, -1, 3>, nb::c_contig, nb::device::cpu>;
using Planes = nb::ndarray<nb::numpy, float, nb::shape<3, -1, -1>>;

Planes preprocess_image(const Image& image, const std::vector<std::string>& steps, int64_t height,
                        int64_t width, float scale, float offset) {
    actquant::ImageSpec spec{height, width, actquant::parse_image_steps(steps), scale, offset};
    actquant::ImageView view{image.data(), static_cast<int64_t>(image.shape(0)),
                             static_cast<int64_t>(image.shape(1))};
    std::vector<float> values;
    {
        nb::gil_scoped_release release;
        values = actquant::preprocess_image(spec, view, "image");
    }
    auto* owned = new std::vector<float>(std::move(values));
    nb::capsule owner(
        owned, [](void* pointer) noexcept { delete static_cast<std::vector<float>*>(pointer); });
    return Planes(owned->data(), {3, static_cast<size_t>(height), static_cast<size_t>(width)},
                  owner);
}

} // namespace

void bind_images(nb::module_& module) {
    module.def("preprocess_image", preprocess_image, "image"_a, "steps"_a, "height"_a, "width"_a,
               "scale"_a, "offset"_a);
}
