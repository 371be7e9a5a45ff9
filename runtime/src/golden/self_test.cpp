#include "golden/self_test.h"

#include "common/error.h"

#include <nlohmann/json.hpp>

#include <algorithm>
#include <cmath>
#include <numeric>

namespace actquant {
namespace {

using Json = nlohmann::json;

// Another machine adds up in another order, which moves single precision by about 1e-6. Where ggml
// rounds activations, to the type's own bits or to 8 beside blocks, a rounding may tip the other
// way: about one step of that type. A device may round what it multiplies to f16, whatever the
// type.
double limit_of(const ModelFile& file, bool on_device) {
    double limit = on_device ? 1e-3 : 1e-4;
    for (const auto& [name, tensor] : file.tensors()) {
        ggml_type type = tensor.descriptor->type;
        if (ggml_is_quantized(type)) {
            return 5e-2;
        }
        if (type == GGML_TYPE_F16) {
            limit = std::max(limit, 1e-3);
        }
        if (type == GGML_TYPE_BF16) {
            limit = std::max(limit, 1e-2);
        }
    }
    return limit;
}

Observation observation_of(const PolicySpec& spec, const GoldenInputs& inputs,
                           const Json& golden_case) {
    std::vector<std::string> masked =
        golden_case.value("masked_cameras", std::vector<std::string>());
    size_t image_bytes =
        static_cast<size_t>(3 * spec.image_source_height * spec.image_source_width);
    Observation observation;
    for (int64_t k = 0; k < spec.image_count(); k++) {
        const std::string& camera = spec.cameras[k % spec.cameras.size()];
        bool is_masked = std::find(masked.begin(), masked.end(), camera) != masked.end();
        observation.images.push_back(is_masked ? ImageView{}
                                               : ImageView{inputs.pixels.data() + k * image_bytes,
                                                           spec.image_source_height,
                                                           spec.image_source_width});
    }
    observation.state = inputs.state;
    if (spec.has_language) {
        observation.task = golden_case.value("prompt", "");
    }
    return observation;
}

double distance(const PolicySpec& spec, const std::vector<float>& actions, const Json& expected) {
    size_t dim = static_cast<size_t>(spec.action.dim());
    double sum = 0;
    for (size_t k = 0; k < actions.size(); k++) {
        double scale = spec.action.standard_deviation[k % dim] + spec.normalization_eps;
        double wanted = expected.at(k / dim).at(k % dim).get<double>();
        sum += std::pow((actions[k] - wanted) / scale, 2);
    }
    return std::sqrt(sum / static_cast<double>(actions.size()));
}

Distance summary(const std::vector<double>& distances) {
    if (distances.empty()) {
        return {std::nan(""), std::nan("")};
    }
    double sum = std::accumulate(distances.begin(), distances.end(), 0.0);
    return {sum / static_cast<double>(distances.size()),
            *std::max_element(distances.begin(), distances.end())};
}

} // namespace

GoldenLayout golden_layout(const PolicySpec& spec) {
    GoldenLayout layout;
    layout.steps = static_cast<size_t>(spec.observation_steps);
    layout.cameras = spec.cameras.size();
    layout.height = spec.image_source_height;
    layout.width = spec.image_source_width;
    layout.state_mean = {spec.state.mean.begin(), spec.state.mean.end()};
    layout.state_deviation = {spec.state.standard_deviation.begin(),
                              spec.state.standard_deviation.end()};
    layout.noise_count = static_cast<size_t>(element_count(spec.sampler.noise_shape()));
    return layout;
}

SelfTest run_self_test(Session& session) {
    const PolicySpec& spec = session.policy();
    SelfTest result;
    try {
        Json cases = Json::parse(spec.golden);
        if (cases.empty()) {
            throw FileError("the file has no golden values: it was not proved when it was made");
        }
        std::vector<double> from_stored, from_reference;
        for (const Json& golden_case : cases) {
            GoldenInputs inputs =
                make_golden_inputs(golden_layout(spec), golden_case.at("seed").get<uint64_t>());
            std::vector<float> actions =
                session.act(observation_of(spec, inputs, golden_case), inputs.noise, std::nullopt);
            from_stored.push_back(distance(spec, actions, golden_case.at("actions")));
            const Json& reference = golden_case.at("actions_reference");
            if (!reference.is_null()) {
                from_reference.push_back(distance(spec, actions, reference));
            }
        }
        result = {cases.size(), summary(from_stored), summary(from_reference),
                  limit_of(session.model_file(), session.on_device()), false};
    } catch (const Json::exception& error) {
        throw FileError(std::string("actquant.golden is damaged: ") + error.what());
    }
    result.passed = result.stored.worst <= result.limit;
    return result;
}

} // namespace actquant
