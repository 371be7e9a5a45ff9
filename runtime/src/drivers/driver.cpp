#include "drivers/driver.h"

namespace actquant {

std::unique_ptr<Driver> make_driver(const PolicySpec& spec, Stages& stages) {
    return spec.driver == "one_shot" ? make_one_shot(spec, stages) : make_sampling(spec, stages);
}

} // namespace actquant
