// The C interface with observations that fit no policy: every call gives a status, and AQ_OK only
// with finite actions.
#include "memory_file.h"
#include "tiny_policy.h"

#include <algorithm>
#include <cmath>
#include <cstdlib>
#include <cstring>
#include <string>
#include <vector>

namespace {

class Bytes {
  public:
    Bytes(const uint8_t* data, size_t size) : data(data), left(size) {}

    template <typename Number> Number number() {
        Number value = {};
        size_t count = std::min(sizeof value, left);
        std::memcpy(&value, data, count);
        data += count;
        left -= count;
        return value;
    }

    template <typename Number> std::vector<Number> numbers(size_t most) {
        std::vector<Number> values(number<uint8_t>() % (most + 1));
        for (Number& value : values) {
            value = number<Number>();
        }
        return values;
    }

  private:
    const uint8_t* data;
    size_t left;
};

aq_session* session() {
    static aq_session* opened = [] {
        char path[] = "/tmp/fuzz_act_XXXXXX";
        aq_session* made = nullptr;
        if (mkstemp(path) < 0) {
            actquant::fuzzing::fail("there is no temporary file");
        }
        write_tiny_policy(path);
        aq_status status = aq_open(path, 1, &made);
        std::remove(path);
        if (status != AQ_OK) {
            actquant::fuzzing::fail(aq_last_error());
        }
        return made;
    }();
    return opened;
}

// As many pixels as the size says, where it says something that may be read.
aq_image image_of(Bytes& bytes, const std::vector<uint8_t>& pixels) {
    aq_image image = {bytes.number<uint8_t>() % 8 == 0 ? nullptr : pixels.data(),
                      bytes.number<int16_t>(), bytes.number<int16_t>()};
    switch (bytes.number<uint8_t>() % 4) {
    case 0:
        image.height = 1;
        image.width = 2;
        break;
    case 1:
        image.height = bytes.number<int64_t>();
        break;
    case 2:
        image.height %= 64;
        image.width %= 64;
        break;
    }
    bool is_read = image.height > 0 && image.width > 0 && image.height <= INT16_MAX;
    if (is_read && static_cast<size_t>(3 * image.height * image.width) > pixels.size()) {
        image.height = image.width = 64;
    }
    return image;
}

} // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
    static const std::vector<uint8_t> pixels(3 << 16, 128);
    Bytes bytes(data, size);
    std::vector<aq_image> images(bytes.number<uint8_t>() % 3);
    for (aq_image& image : images) {
        image = image_of(bytes, pixels);
    }
    std::vector<float> state = bytes.numbers<float>(3);
    std::vector<char> task = bytes.numbers<char>(40);
    std::vector<int64_t> tokens = bytes.numbers<int64_t>(5);
    std::vector<float> values = bytes.numbers<float>(4);
    std::vector<float> left_over = bytes.numbers<float>(5);
    uint8_t given = bytes.number<uint8_t>();
    task.push_back(0);
    aq_observation observation = {images.data(),
                                  images.size(),
                                  state.data(),
                                  state.size(),
                                  given & 1 ? task.data() : nullptr,
                                  given & 2 ? tokens.data() : nullptr,
                                  tokens.size()};
    aq_noise noise = {given & 4 ? values.data() : nullptr, values.size(), bytes.number<uint64_t>(),
                      given & 8 ? 1 : 0};
    aq_previous previous = {left_over.data(),        left_over.size(),
                            bytes.number<int64_t>(), bytes.number<int64_t>(),
                            bytes.number<float>(),   bytes.number<int32_t>()};
    float actions[2] = {0, 0};
    aq_status status = aq_act_after(session(), &observation, given & 16 ? &noise : nullptr,
                                    given & 32 ? &previous : nullptr, actions, given & 64 ? 2 : 3);
    bool is_finite = std::isfinite(actions[0]) && std::isfinite(actions[1]);
    bool says_why = std::strlen(aq_last_error()) > 0;
    bool is_known =
        status == AQ_ERROR_ARGUMENT || std::strstr(aq_last_error(), "non-finite action") != nullptr;
    if (status == AQ_OK ? !is_finite : !(says_why && is_known)) {
        actquant::fuzzing::fail(std::to_string(status) + ": " + aq_last_error());
    }
    size_t count = 0;
    int64_t room[3];
    aq_tokenize(session(), task.data(), state.data(), state.size(), room, 3, &count);
    return 0;
}
