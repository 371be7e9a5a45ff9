#include "inputs/image.h"

#include "common/error.h"
#include "common/limits.h"

#include <algorithm>
#include <charconv>
#include <cmath>
#include <map>
#include <sstream>

namespace actquant {
namespace {

const std::map<std::string, ImageStep::Kind> step_kinds = {
    {"resize", ImageStep::Kind::resize},
    {"resize_pad", ImageStep::Kind::resize_pad},
    {"center_crop", ImageStep::Kind::center_crop},
    {"crop_resize", ImageStep::Kind::crop_resize},
};
const std::map<std::string, Filter> filters = {
    {"bilinear", Filter::bilinear},
    {"bicubic", Filter::bicubic},
    {"lanczos", Filter::lanczos},
};
const std::map<std::string, Rounding> roundings = {
    {"0", Rounding::none},
    {"1", Rounding::at_end},
    {"2", Rounding::each_pass},
};
const std::map<std::string, bool> switches = {{"0", false}, {"1", true}};
const std::map<std::string, bool> anchors = {{"end", false}, {"center", true}};

// Reads the key=value attributes of one step; every one must be there, and no other.
class Attributes {
  public:
    Attributes(const std::string& line, std::istringstream& words) : line(line) {
        for (std::string word; words >> word;) {
            size_t equals = word.find('=');
            if (equals == std::string::npos ||
                !values.emplace(word.substr(0, equals), word.substr(equals + 1)).second) {
                fail("'" + word + "' is no key=value, or comes twice");
            }
        }
    }

    float number(const std::string& key, float least, float most) {
        return number_of(take(key), key, least, most);
    }

    // One number for all channels, or one for each of them, with commas.
    void pixel(const std::string& key, float (&channels)[3]) {
        std::string text = take(key);
        std::istringstream parts(text);
        size_t count = 0;
        for (std::string part; std::getline(parts, part, ','); count++) {
            float value = number_of(part, key, 0, 255);
            if (count < 3) {
                channels[count] = value;
            }
        }
        if (count == 1) {
            channels[1] = channels[2] = channels[0];
        } else if (count != 3 || text.back() == ',') {
            fail(key + "=" + text + " is neither one number nor one for each of three channels");
        }
    }

    int64_t size(const std::string& key) {
        float result = number(key, 1, limits::image_side);
        if (result != std::floor(result)) {
            fail(key + " must be a whole number");
        }
        return static_cast<int64_t>(result);
    }

    template <typename Value>
    Value choice(const std::string& key, const std::map<std::string, Value>& choices) {
        std::string text = take(key);
        auto found = choices.find(text);
        if (found == choices.end()) {
            std::string valid;
            for (const auto& [name, value] : choices) {
                valid += (valid.empty() ? "" : ", ") + name;
            }
            fail(key + "=" + text + " is unknown; it may be " + valid);
        }
        return found->second;
    }

    void expect_no_more() {
        if (!values.empty()) {
            fail("it has no attribute '" + values.begin()->first + "'");
        }
    }

    [[noreturn]] void fail(const std::string& reason) const {
        throw FileError("'" + line + "': " + reason);
    }

  private:
    float number_of(const std::string& text, const std::string& key, float least,
                    float most) const {
        float result = 0;
        auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), result);
        if (error != std::errc() || end != text.data() + text.size() || !(result >= least) ||
            !(result <= most)) {
            std::ostringstream range;
            range << key << "=" << text << " is no number from " << least << " to " << most;
            fail(range.str());
        }
        return result;
    }

    std::string take(const std::string& key) {
        auto found = values.find(key);
        if (found == values.end()) {
            fail("the attribute " + key + " is missing");
        }
        std::string text = found->second;
        values.erase(found);
        return text;
    }

    const std::string& line;
    std::map<std::string, std::string> values;
};

void read_resampling(Attributes& attributes, Resampling& resampling) {
    resampling.filter = attributes.choice("filter", filters);
    resampling.antialias = attributes.choice("antialias", switches);
    resampling.rounding = attributes.choice("round", roundings);
    if (resampling.filter == Filter::lanczos && !resampling.antialias) {
        attributes.fail("the filter lanczos needs antialias=1");
    }
}

Bitmap bitmap_of(const ImageView& image) {
    Bitmap result(image.height, image.width);
    const uint8_t* source = image.pixels;
    for (Pixel& pixel : result.pixels) {
        for (int c = 0; c < 3; c++) {
            pixel.channels[c] = static_cast<float>(source[c]);
        }
        source += 3;
    }
    return result;
}

// The largest size with the image's ratio that fits into the target, rounded down.
Bitmap resize_and_pad(const Bitmap& source, const ImageStep& step) {
    double ratio = std::max(static_cast<double>(source.width) / static_cast<double>(step.width),
                            static_cast<double>(source.height) / static_cast<double>(step.height));
    int64_t height =
        std::max<int64_t>(static_cast<int64_t>(static_cast<double>(source.height) / ratio), 1);
    int64_t width =
        std::max<int64_t>(static_cast<int64_t>(static_cast<double>(source.width) / ratio), 1);
    Bitmap inner = resize(source, height, width, step.resampling);
    Bitmap result(step.height, step.width);
    std::fill(result.pixels.begin(), result.pixels.end(),
              Pixel{{step.value[0], step.value[1], step.value[2], 0}});
    int64_t share = step.centered ? 2 : 1;
    int64_t top = (step.height - height) / share;
    int64_t left = (step.width - width) / share;
    for (int64_t y = 0; y < height; y++) {
        std::copy_n(inner.row(y), width, result.row(top + y) + left);
    }
    return result;
}

Bitmap center_crop(const Bitmap& source, const ImageStep& step, const std::string& camera) {
    if (source.height < step.height || source.width < step.width) {
        throw ArgumentError("the image " + camera + " is " + std::to_string(source.height) + "x" +
                            std::to_string(source.width) + " (height x width) where its middle " +
                            std::to_string(step.height) + "x" + std::to_string(step.width) +
                            " is to be taken");
    }
    int64_t top = std::lrint(static_cast<double>(source.height - step.height) / 2);
    int64_t left = std::lrint(static_cast<double>(source.width - step.width) / 2);
    Bitmap result(step.height, step.width);
    for (int64_t y = 0; y < step.height; y++) {
        std::copy_n(source.row(top + y) + left, step.width, result.row(y));
    }
    return result;
}

Bitmap apply(const ImageStep& step, const Bitmap& source, const std::string& camera) {
    switch (step.kind) {
    case ImageStep::Kind::resize:
        return resize(source, step.height, step.width, step.resampling);
    case ImageStep::Kind::resize_pad:
        return resize_and_pad(source, step);
    case ImageStep::Kind::center_crop:
        return center_crop(source, step, camera);
    case ImageStep::Kind::crop_resize:
        return crop_resize(source, step.fraction, step.height, step.width);
    }
    throw Error("unknown image step");
}

void check_size(const ImageSpec& spec, const ImageView& image, const Bitmap& result,
                const std::string& camera) {
    if (result.height == spec.height && result.width == spec.width) {
        return;
    }
    std::string message = "the image " + camera + " is " + std::to_string(image.height) + "x" +
                          std::to_string(image.width) + " (height x width), ";
    if (!spec.steps.empty()) {
        message += std::to_string(result.height) + "x" + std::to_string(result.width) +
                   " after the policy's image steps, ";
    }
    throw ArgumentError(message + "expected " + std::to_string(spec.height) + "x" +
                        std::to_string(spec.width));
}

ImageStep parse_step(const std::string& line) {
    std::istringstream words(line);
    std::string name;
    words >> name;
    Attributes attributes(line, words);
    auto found = step_kinds.find(name);
    if (found == step_kinds.end()) {
        attributes.fail("there is no such step; there are center_crop, crop_resize, resize and "
                        "resize_pad");
    }
    ImageStep step;
    step.kind = found->second;
    step.height = attributes.size("height");
    step.width = attributes.size("width");
    if (step.height * step.width > limits::image_pixels) {
        attributes.fail("height times width is above " + std::to_string(limits::image_pixels));
    }
    if (step.kind == ImageStep::Kind::resize || step.kind == ImageStep::Kind::resize_pad) {
        read_resampling(attributes, step.resampling);
    }
    if (step.kind == ImageStep::Kind::resize_pad) {
        step.centered = attributes.choice("anchor", anchors);
        attributes.pixel("value", step.value);
    }
    if (step.kind == ImageStep::Kind::crop_resize) {
        step.fraction = attributes.number("fraction", 1e-6f, 1);
    }
    attributes.expect_no_more();
    return step;
}

} // namespace

std::vector<ImageStep> parse_image_steps(const std::vector<std::string>& lines) {
    Problems problems;
    std::vector<ImageStep> steps;
    for (const std::string& line : lines) {
        try {
            steps.push_back(parse_step(line));
        } catch (const FileError& error) {
            problems.add(error.what());
        }
    }
    problems.throw_if_any("actquant.image.steps:");
    return steps;
}

std::vector<float> preprocess_image(const ImageSpec& spec, const ImageView& image,
                                    const std::string& camera) {
    if (image.height < 1 || image.width < 1) {
        throw ArgumentError("the image " + camera + " is empty");
    }
    if (image.height > limits::image_side || image.width > limits::image_side ||
        image.height * image.width > limits::image_pixels) {
        throw ArgumentError("the image " + camera + " is " + std::to_string(image.height) + "x" +
                            std::to_string(image.width) + " (height x width), larger than " +
                            std::to_string(limits::image_pixels) + " pixels or " +
                            std::to_string(limits::image_side) + " of a side");
    }
    Bitmap bitmap = bitmap_of(image);
    for (const ImageStep& step : spec.steps) {
        bitmap = apply(step, bitmap, camera);
    }
    check_size(spec, image, bitmap, camera);
    int64_t count = spec.height * spec.width;
    std::vector<float> result(3 * count);
    for (int c = 0; c < 3; c++) {
        float* plane = &result[c * count];
        for (int64_t k = 0; k < count; k++) {
            plane[k] = bitmap.pixels[k].channels[c] / 255.0f * spec.scale + spec.offset;
        }
    }
    return result;
}

} // namespace actquant
