#include "policy_mutator.h"

#include "gguf_image.h"
#include "operators/operators.h"

#include <ggml.h>

#include <algorithm>
#include <cctype>
#include <cstdlib>
#include <cstring>
#include <limits>
#include <random>

extern "C" size_t LLVMFuzzerMutate(uint8_t* data, size_t size, size_t most);

namespace actquant::fuzzing {
namespace {

using Random = std::minstd_rand;

size_t below(Random& random, size_t count) {
    return random() % count;
}

template <typename Item> Item& any(Random& random, std::vector<Item>& items) {
    return items[below(random, items.size())];
}

std::string number_text(Random& random, const std::string& old) {
    static const char* const odd[] = {"0",
                                      "1",
                                      "-1",
                                      "2",
                                      "3",
                                      "4",
                                      "7",
                                      "8",
                                      "32",
                                      "255",
                                      "256",
                                      "65535",
                                      "65536",
                                      "2147483647",
                                      "2147483648",
                                      "4294967296",
                                      "9223372036854775807",
                                      "-9223372036854775808",
                                      "1e-5",
                                      "-0",
                                      "nan",
                                      "inf",
                                      "-inf",
                                      "1e38",
                                      "1e300",
                                      "0.5",
                                      "L",
                                      "1+L",
                                      "-1+2*L",
                                      "1073741824*L"};
    if (below(random, 2) == 0) {
        return odd[below(random, std::size(odd))];
    }
    long long value = std::strtoll(old.c_str(), nullptr, 10);
    constexpr int steps[] = {-2, -1, 1, 2, 3};
    return std::to_string(below(random, 4) == 0 ? 2 * value : value + steps[below(random, 5)]);
}

// Another number in the place of one in a text.
void change_number(Random& random, std::string& text) {
    std::vector<std::pair<size_t, size_t>> places;
    for (size_t k = 0; k < text.size(); k++) {
        bool is_digit = text[k] >= '0' && text[k] <= '9';
        if (is_digit && k > 0 && (text[k - 1] == '%' || std::isalpha(text[k - 1]))) {
            while (k + 1 < text.size() && std::isdigit(text[k + 1])) {
                k++;
            }
        } else if (is_digit) {
            size_t begin = k;
            while (k + 1 < text.size() && (std::isdigit(text[k + 1]) || text[k + 1] == '.')) {
                k++;
            }
            places.emplace_back(begin, k + 1 - begin);
        }
    }
    if (!places.empty()) {
        auto [begin, count] = any(random, places);
        text.replace(begin, count, number_text(random, text.substr(begin, count)));
    }
}

std::vector<std::string> split(const std::string& text, char separator) {
    std::vector<std::string> parts(1);
    for (char c : text) {
        if (c == separator) {
            parts.emplace_back();
        } else {
            parts.back() += c;
        }
    }
    return parts;
}

std::string joined(const std::vector<std::string>& parts, char separator) {
    std::string text;
    for (size_t k = 0; k < parts.size(); k++) {
        text += (k > 0 ? std::string(1, separator) : "") + parts[k];
    }
    return text;
}

std::string any_operator(Random& random) {
    static const std::vector<std::string> names = [] {
        std::vector<std::string> all;
        for (const auto& [name, op] : device_operators()) {
            all.push_back(name);
        }
        for (const auto& [name, op] : host_operators()) {
            all.push_back("host." + name);
        }
        return all;
    }();
    return names[below(random, names.size())];
}

// An attribute that some operator takes.
std::string any_attribute(Random& random) {
    static const char* const attributes[] = {
        "dim=0",      "dim=-1",       "start=0",      "end=1",
        "step=2",     "perm=[0,2,1]", "perm=[1,0]",   "pads=[0,0,0,1]",
        "value=1",    "value=0",      "stride=[1,1]", "stride=1",
        "pad=[0,0]",  "pad=0",        "dil=[1,1]",    "dil=1",
        "groups=1",   "groups=2",     "kernel=[1,1]", "eps=1e-5",
        "w=0",        "w=1",          "b=0",          "b=1",
        "a=2",        "approx=tanh",  "approx=none",  "act=silu",
        "act=gelu",   "scale=1",      "causal=1",     "causal=0",
        "min=0",      "max=1",        "dims=[0]",     "dims=[-1]",
        "dims=[0,1]", "keep=0",       "keep=1",       "output_pad=0",
        "slope=0.1",  "shape=[1]",    "name=state",   "name=tokens"};
    return attributes[below(random, std::size(attributes))];
}

void change_word(Random& random, GgufImage& image, std::vector<std::string>& lines) {
    std::string& line = any(random, lines);
    std::vector<std::string> words = split(line, ' ');
    std::string& word = any(random, words);
    bool is_operand = !word.empty() && (word[0] == '%' || word[0] == '@');
    switch (below(random, 8)) {
    case 0:
    case 1:
    case 2:
        change_number(random, word);
        break;
    case 3:
        if (words.size() > 2) {
            words[2] = any_operator(random);
        }
        break;
    case 4:
        if (is_operand && !image.tensors.empty() && below(random, 2) == 0) {
            word = "@" + any(random, image.tensors).name;
        } else if (is_operand) {
            word = "%" + std::to_string(below(random, lines.size() + 1));
        } else {
            words.push_back(any_attribute(random));
        }
        break;
    case 5:
        words.push_back(below(random, 2) == 0 ? any_attribute(random) : word);
        break;
    case 6:
        words.erase(words.begin() + static_cast<std::ptrdiff_t>(below(random, words.size())));
        break;
    case 7: {
        static const char* const dtypes[] = {"f32", "i64", "b8"};
        size_t bracket = word.find('[');
        if (bracket != word.npos && word.find('=') == word.npos) {
            word = dtypes[below(random, 3)] + word.substr(bracket);
        }
        break;
    }
    }
    line = joined(words, ' ');
}

// A new operator that reads what a line gives and takes over its name.
void insert_operator(Random& random, std::string& line) {
    std::vector<std::string> words = split(line, ' ');
    if (words.size() < 4 || words[0].empty() || words[0][0] != '%') {
        return;
    }
    std::string name = words[0];
    words[0] = "%" + std::to_string(1000 + below(random, 1000));
    line = joined(words, ' ') + "\n" + name + " = " + any_operator(random) + " " + words[3] + " " +
           words[0] + " " + any_attribute(random) + " " + any_attribute(random);
}

void change_program(Random& random, GgufImage& image, std::string& text) {
    std::vector<std::string> lines = split(text, '\n');
    auto at = [&] {
        return lines.begin() + static_cast<std::ptrdiff_t>(below(random, lines.size()));
    };
    switch (below(random, 8)) {
    case 0:
        lines.erase(at());
        break;
    case 1:
        insert_operator(random, *at());
        break;
    case 2:
        lines.insert(at(), *at());
        break;
    default:
        change_word(random, image, lines);
    }
    text = joined(lines, '\n');
}

void change_text(Random& random, GgufImage& image, const GgufImage::Key& key, std::string& text) {
    if (key.name.starts_with("actquant.graph.")) {
        change_program(random, image, text);
        return;
    }
    if (below(random, 2) == 0) {
        change_number(random, text);
        return;
    }
    std::vector<uint8_t> bytes(text.begin(), text.end());
    bytes.resize(text.size() + 64);
    bytes.resize(LLVMFuzzerMutate(bytes.data(), text.size(), bytes.size()));
    text.assign(bytes.begin(), bytes.end());
}

void change_bytes_of_number(Random& random, uint32_t type, std::string& bytes) {
    bool is_float = type == 6;
    if (is_float) {
        constexpr float odd[] = {0, -0.0f, 1, -1, 1e-30f, 1e30f, 3e38f, 0.5f, -2};
        float value = odd[below(random, std::size(odd))];
        value = below(random, 8) == 0 ? std::numeric_limits<float>::quiet_NaN() : value;
        value = below(random, 8) == 0 ? std::numeric_limits<float>::infinity() : value;
        std::memcpy(bytes.data(), &value, std::min(bytes.size(), sizeof value));
        return;
    }
    uint64_t value = 0;
    std::memcpy(&value, bytes.data(), std::min(bytes.size(), sizeof value));
    constexpr uint64_t odd[] = {0, 1, 2, 3, 255, 65536, 0x7fffffff, 0x80000000, ~uint64_t(0)};
    value =
        below(random, 2) == 0 ? odd[below(random, std::size(odd))] : value + below(random, 5) - 2;
    std::memcpy(bytes.data(), &value, std::min(bytes.size(), sizeof value));
}

void change_key(Random& random, GgufImage& image) {
    GgufImage::Key& key = any(random, image.keys);
    size_t choice = below(random, 16);
    if (choice == 0) {
        image.keys.erase(image.keys.begin() + (&key - image.keys.data()));
    } else if (choice == 1) {
        key.type = static_cast<uint32_t>(below(random, 13));
    } else if (key.elements.empty()) {
        key.elements.emplace_back(key.is_text() ? 0 : 4, '\0');
    } else if (key.is_array && choice == 2) {
        key.elements.push_back(any(random, key.elements));
    } else if (key.is_array && choice == 3) {
        key.elements.pop_back();
    } else if (key.is_text()) {
        change_text(random, image, key, any(random, key.elements));
    } else {
        change_bytes_of_number(random, key.type, any(random, key.elements));
    }
}

void change_graph(Random& random, GgufImage& image) {
    static const char* const stages[] = {"vision", "prefix", "denoise", "decode"};
    std::string name = std::string("actquant.graph.") + stages[below(random, 4)];
    GgufImage::Key* key = image.find(name);
    if (key != nullptr && key->is_text() && !key->elements.empty()) {
        change_program(random, image, key->elements[0]);
    }
}

// The shape that the file tells, in step with the tensor, most of the time.
void tell_shape(GgufImage& image, const GgufImage::Tensor& tensor) {
    GgufImage::Key* shapes = image.find("actquant.shapes");
    if (shapes == nullptr || shapes->elements.empty()) {
        return;
    }
    std::vector<std::string> lines = split(shapes->elements[0], '\n');
    for (std::string& line : lines) {
        if (line.starts_with(tensor.name + " ")) {
            std::vector<std::string> extents;
            for (auto extent = tensor.extents.rbegin(); extent != tensor.extents.rend(); ++extent) {
                extents.push_back(std::to_string(*extent));
            }
            line = tensor.name + " [" + joined(extents, ',') + "]";
        }
    }
    shapes->elements[0] = joined(lines, '\n');
}

void change_tensor(Random& random, GgufImage& image) {
    GgufImage::Tensor& tensor = any(random, image.tensors);
    switch (below(random, 4)) {
    case 0:
        tensor.type = static_cast<uint32_t>(below(random, GGML_TYPE_COUNT + 2));
        break;
    case 1:
        if (!tensor.extents.empty()) {
            uint64_t& extent = any(random, tensor.extents);
            constexpr uint64_t odd[] = {0, 1, 2, 8, 32, 256, uint64_t(1) << 32, ~uint64_t(0)};
            extent = below(random, 2) == 0 ? odd[below(random, 8)] : extent + below(random, 5) - 2;
        }
        break;
    case 2:
        std::reverse(tensor.extents.begin(), tensor.extents.end());
        break;
    case 3:
        tensor.extents.push_back(1);
        break;
    }
    uint64_t rows = 1;
    for (size_t k = 1; k < tensor.extents.size(); k++) {
        rows *= std::min<uint64_t>(tensor.extents[k], 1024);
    }
    bool is_known =
        tensor.type < GGML_TYPE_COUNT && ggml_blck_size(static_cast<ggml_type>(tensor.type)) > 0;
    if (is_known && !tensor.extents.empty() && tensor.extents[0] <= 4096 && rows <= 4096) {
        auto type = static_cast<ggml_type>(tensor.type);
        uint64_t blocks = tensor.extents[0] / static_cast<uint64_t>(ggml_blck_size(type));
        tensor.bytes.resize(std::min<uint64_t>(blocks * rows * ggml_type_size(type), 1 << 16));
    }
    if (below(random, 4) != 0) {
        tell_shape(image, tensor);
    }
}

} // namespace

size_t mutate_policy(uint8_t* data, size_t size, size_t most, unsigned seed) {
    Random random(seed);
    std::optional<GgufImage> image = take_apart(data, size);
    if (!image || image->keys.empty() || below(random, 16) == 0) {
        return LLVMFuzzerMutate(data, size, most);
    }
    for (size_t count = 1 + below(random, 3); count > 0; count--) {
        size_t choice = below(random, 8);
        if (choice < 4) {
            change_graph(random, *image);
        } else if (choice < 6 && !image->keys.empty()) {
            change_key(random, *image);
        } else if (!image->tensors.empty()) {
            change_tensor(random, *image);
        }
        if (image->keys.empty()) {
            break;
        }
    }
    std::string changed = put_together(*image);
    if (changed.size() > most) {
        return LLVMFuzzerMutate(data, size, most);
    }
    std::memcpy(data, changed.data(), changed.size());
    return changed.size();
}

} // namespace actquant::fuzzing
