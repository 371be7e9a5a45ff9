// What a client sends to actquant-serve, twice over one session; the policy's interface is fixed.
#include "session.h"

#include <cstdint>

using namespace actquant::server;

namespace {

std::shared_ptr<const Interface> policy() {
    Json about = {{"cameras", {"observation.images.scene", "observation.images.wrist"}},
                  {"optional_cameras", 1},
                  {"observation_steps", 2},
                  {"state", {{"names", {"a", "b", "c"}}}},
                  {"action", {{"names", {"x", "y"}}, {"chunk_length", 3}}},
                  {"prompt", Json::object()},
                  {"noise_shape", {3, 4}},
                  {"supports_guidance", true}};
    return std::make_shared<Interface>(about, std::map<std::string, std::string>());
}

} // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
    static const std::shared_ptr<const Interface> interface = policy();
    auto bytes = std::make_shared<std::string>(reinterpret_cast<const char*>(data), size);
    Session session(interface);
    try {
        for (int message = 0; message < 2; message++) {
            Asked asked = session.take(unpack(*bytes), bytes);
            if (asked.pictures.size() != 4 || asked.state.size() != 6) {
                __builtin_trap();
            }
            session.keep(std::vector<float>(6, 1.0f));
        }
    } catch (const MessageError&) {
    }
    return 0;
}
