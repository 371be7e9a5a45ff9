#include "message.h"

#include <boost/nowide/utf/utf.hpp>
#include <msgpack.hpp>

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstring>
#include <optional>

namespace actquant::server {
namespace {

constexpr size_t max_values = 100'000;
constexpr size_t max_depth = 32;
constexpr size_t max_dimensions = 8;

[[noreturn]] void no_message(const std::string& reason) {
    throw MessageError("no msgpack message: " + reason);
}

bool is_utf8(std::string_view text) {
    const char* place = text.data();
    const char* last = place + text.size();
    while (place != last) {
        auto point = boost::nowide::utf::utf_traits<char>::decode(place, last);
        if (!boost::nowide::utf::is_valid_codepoint(point)) {
            return false;
        }
    }
    return true;
}

const Value* find(const Map& map, std::string_view key) {
    for (const auto& [name, value] : map) {
        if (name.as<Bytes>() && name.as<Bytes>()->data == key) {
            return &value;
        }
    }
    return nullptr;
}

// Of a NumPy name such as <f4 or |u1.
Array empty_array(const Map& map) {
    const Value* given = find(map, "dtype");
    const std::string_view* text = given ? given->as<std::string_view>() : nullptr;
    std::string_view name = text ? *text : std::string_view();
    Array array;
    if (!name.empty() && std::string_view("<>|=").find(name[0]) != name.npos) {
        array.swapped = (name[0] == '>') == (std::endian::native == std::endian::little) &&
                        (name[0] == '>' || name[0] == '<');
        name.remove_prefix(1);
    }
    for (const char* known :
         {"b1", "i1", "i2", "i4", "i8", "u1", "u2", "u4", "u8", "f2", "f4", "f8"}) {
        if (name == known) {
            array.kind = known[0];
            array.item = static_cast<size_t>(known[1] - '0');
            return array;
        }
    }
    throw MessageError("an array of " +
                       (text    ? in_quotes(*text)
                        : given ? given->type()
                                : std::string("no type")) +
                       ": wanted numbers, e.g. '<f4' or '|u1'");
}

Array array_of(const Map& map) {
    Array array = empty_array(map);
    const Value* shape = find(map, "shape");
    const List* sizes = shape ? shape->as<List>() : nullptr;
    if (!sizes || sizes->size() > max_dimensions ||
        !std::all_of(sizes->begin(), sizes->end(),
                     [](auto& n) { return n.template as<uint64_t>(); })) {
        throw MessageError("an array of shape " + (shape ? shape->type() : std::string("null")) +
                           ", expected a list of at most 8 whole numbers");
    }
    const Value* given = find(map, "data");
    const Bytes* data = given ? given->as<Bytes>() : nullptr;
    bool has_zero = false;
    bool fits = data != nullptr;
    uint64_t wanted = array.item;
    for (const Value& n : *sizes) {
        array.shape.push_back(*n.as<uint64_t>());
        has_zero = has_zero || array.shape.back() == 0;
    }
    for (uint64_t n : array.shape) {
        // Beyond the bytes that are there, no product is taken.
        fits = fits && (has_zero || n <= data->data.size() / wanted);
        wanted = fits && !has_zero ? wanted * n : wanted;
    }
    if (!fits || data->data.size() != (has_zero ? 0 : wanted)) {
        throw MessageError("an array " + array.type() + " " + shape_text(array.shape) + " with " +
                           (data ? std::to_string(data->data.size()) : std::string("no")) +
                           " bytes");
    }
    array.data = data->data;
    return array;
}

// Builds a Value of what msgpack's parser comes across. Nothing is set aside for what is only
// announced.
class Builder : public msgpack::null_visitor {
  public:
    std::optional<Value> top;

    bool visit_nil() { return add({}); }
    bool visit_boolean(bool value) { return add({value}); }
    bool visit_positive_integer(uint64_t value) { return add({value}); }
    bool visit_negative_integer(int64_t value) { return add({value}); }
    bool visit_float32(float value) { return add({static_cast<double>(value)}); }
    bool visit_float64(double value) { return add({value}); }
    bool visit_bin(const char* data, uint32_t size) { return add({Bytes{{data, size}}}); }
    bool visit_ext(const char*, uint32_t) { return add({Extension()}); }
    bool visit_str(const char* data, uint32_t size) {
        std::string_view text(data, size);
        if (!is_utf8(text)) {
            no_message("a text is not UTF-8");
        }
        return add({text});
    }
    bool start_array(uint32_t) { return begin(); }
    bool start_map(uint32_t) { return begin(); }
    bool end_array() { return add({end()}); }
    bool end_map() {
        List items = end();
        Map map;
        map.reserve(items.size() / 2);
        for (size_t k = 0; k + 1 < items.size(); k += 2) {
            if (!items[k].as<std::string_view>() && !items[k].as<Bytes>()) {
                no_message("a key is " + items[k].type() + ", expected a text");
            }
            map.push_back({std::move(items[k]), std::move(items[k + 1])});
        }
        if (find(map, "__ndarray__")) {
            return add({array_of(map)});
        }
        if (find(map, "__npgeneric__")) {
            empty_array(map);
            const Value* data = find(map, "data");
            return add(data ? *data : Value{});
        }
        return add({std::move(map)});
    }

  private:
    bool begin() {
        if (open.size() == max_depth) {
            no_message("it is nested more than " + std::to_string(max_depth) + " deep");
        }
        open.emplace_back();
        return true;
    }
    List end() {
        List items = std::move(open.back());
        open.pop_back();
        return items;
    }
    bool add(Value value) {
        if (++count > max_values) {
            no_message("it has more than " + std::to_string(max_values) +
                       " values; numbers are sent as arrays");
        }
        if (open.empty()) {
            top = std::move(value);
        } else {
            open.back().push_back(std::move(value));
        }
        return true;
    }

    std::vector<List> open;
    size_t count = 0;
};

template <typename Type> Type read(const char* from, bool swapped) {
    char bytes[sizeof(Type)];
    std::copy(from, from + sizeof(Type), bytes);
    if (swapped) {
        std::reverse(bytes, bytes + sizeof(Type));
    }
    Type value;
    std::memcpy(&value, bytes, sizeof(Type));
    return value;
}

float half(uint16_t bits) {
    int exponent = (bits >> 10) & 31;
    int digits = bits & 1023;
    double size = std::ldexp(digits + (exponent ? 1024 : 0), std::max(exponent, 1) - 25);
    if (exponent == 31) {
        size = digits ? NAN : INFINITY;
    }
    return static_cast<float>(bits & 0x8000 ? -size : size);
}

} // namespace

float Array::number(size_t index) const {
    const char* from = data.data() + index * item;
    switch (kind) {
    case 'f':
        return item == 8   ? static_cast<float>(read<double>(from, swapped))
               : item == 4 ? read<float>(from, swapped)
                           : half(read<uint16_t>(from, swapped));
    case 'i':
        return item == 8   ? static_cast<float>(read<int64_t>(from, swapped))
               : item == 4 ? static_cast<float>(read<int32_t>(from, swapped))
               : item == 2 ? static_cast<float>(read<int16_t>(from, swapped))
                           : static_cast<float>(read<int8_t>(from, false));
    case 'u':
        return item == 8   ? static_cast<float>(read<uint64_t>(from, swapped))
               : item == 4 ? static_cast<float>(read<uint32_t>(from, swapped))
               : item == 2 ? static_cast<float>(read<uint16_t>(from, swapped))
                           : static_cast<float>(read<uint8_t>(from, false));
    default:
        return *from ? 1 : 0;
    }
}

std::string Array::type() const {
    if (kind == 'b') {
        return "bool";
    }
    return (kind == 'f' ? "float" : kind == 'i' ? "int" : "uint") + std::to_string(8 * item);
}

std::string Value::type() const {
    const char* names[] = {"null",     "a bool", "a whole number", "a whole number",
                           "a number", "a text", "bytes",          "an extension of msgpack's",
                           "a list",   "a map",  "an array"};
    return names[is.index()];
}

Map unpack(std::string_view bytes) {
    Builder builder;
    size_t end = 0;
    bool is_whole = msgpack::parse(bytes.data(), bytes.size(), end, builder);
    if (!is_whole || !builder.top) {
        no_message(bytes.empty() ? "it is empty" : "it is cut short or damaged");
    }
    if (end != bytes.size()) {
        no_message("more comes after its end");
    }
    Map* map = std::get_if<Map>(&builder.top->is);
    if (!map || !std::all_of(map->begin(), map->end(), [](auto& entry) {
            return entry.key.template as<std::string_view>();
        })) {
        throw MessageError("a message is a map with texts as keys");
    }
    return std::move(*map);
}

std::string in_quotes(std::string_view text) {
    std::string shown(text.substr(0, 80));
    while (!is_utf8(shown)) {
        shown.pop_back(); // of a letter that was cut
    }
    for (char& c : shown) {
        c = static_cast<unsigned char>(c) < 32 || c == 127 ? ' ' : c;
    }
    return "'" + shown + "'";
}

std::string shape_text(const std::vector<uint64_t>& shape) {
    std::string text = "[";
    for (uint64_t n : shape) {
        text += (text.size() == 1 ? "" : ", ") + std::to_string(n);
    }
    return text + "]";
}

} // namespace actquant::server
