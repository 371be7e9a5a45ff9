// A policy file: it opens or is refused, and what opens acts or says why not.
#include "api/session.h"
#include "common/error.h"
#include "file/checksums.h"
#include "memory_file.h"
#include "policy_mutator.h"

#include <cstdlib>
#include <cstring>
#include <numeric>

using namespace actquant;

namespace {

// More than the corpus needs; what is large is slow, and no other for that.
constexpr int64_t most_pixels = 1 << 16;
constexpr int64_t most_steps = 16;

Observation observation_of(const PolicySpec& spec, const std::vector<uint8_t>& pixels) {
    Observation observation;
    for (int64_t k = 0; k < spec.image_count(); k++) {
        observation.images.push_back(
            {pixels.data(), spec.image_source_height, spec.image_source_width});
    }
    observation.state.assign(spec.observation_steps * spec.state.dim(), 0.25f);
    if (spec.has_language) {
        observation.task = "push the red cube";
    }
    return observation;
}

void act(Session& session) {
    const PolicySpec& spec = session.policy();
    int64_t area = spec.image_source_height * spec.image_source_width;
    if (area * spec.image_count() > most_pixels ||
        static_cast<int64_t>(spec.sampler.steps.size()) > most_steps) {
        return;
    }
    std::vector<uint8_t> pixels(static_cast<size_t>(3 * area), 100);
    try {
        session.act(observation_of(spec, pixels), {}, 1);
    } catch (const FileError&) {
    } catch (const ArgumentError&) {
    } catch (const Error& error) {
        if (std::strstr(error.what(), "non-finite") == nullptr) {
            fuzzing::fail(error.what());
        }
    }
}

} // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
    skip_checksums();
    fuzzing::MemoryFile file(data, size);
    // By our kernels, or, as the input's bytes decide, by ggml's own operators.
    bool by_ggml = std::accumulate(data, data + size, 0u) % 4 == 0;
    setenv("ACTQUANT_ISA", by_ggml ? "ggml" : "", 1);
    try {
        Session session(file.path(), 1);
        session.describe();
        act(session);
    } catch (const FileError&) {
    } catch (const Error& error) {
        fuzzing::fail(error.what());
    }
    return 0;
}

#ifdef FUZZING_BUILD_MODE_UNSAFE_FOR_PRODUCTION
extern "C" size_t LLVMFuzzerCustomMutator(uint8_t* data, size_t size, size_t most, unsigned seed) {
    return fuzzing::mutate_policy(data, size, most, seed);
}
#endif
