#pragma once

#include <cstdint>
#include <stdexcept>
#include <string>
#include <string_view>
#include <variant>
#include <vector>

namespace actquant::server {

// A client sent what is no message, or does not fit the policy.
class MessageError : public std::runtime_error {
  public:
    using std::runtime_error::runtime_error;
};

// Numbers as a view of the bytes that a client sent: {b"__ndarray__": True, b"data": bytes,
// b"dtype": "<f4", b"shape": [...]}.
struct Array {
    char kind = 'f';      // NumPy's letter: b, i, u or f
    size_t item = 4;      // bytes of a number
    bool swapped = false; // the largest byte comes first
    std::vector<uint64_t> shape;
    std::string_view data;

    size_t size() const { return data.size() / item; }
    float number(size_t index) const;
    std::string type() const; // as NumPy calls it, e.g. float32
};

struct Bytes {
    std::string_view data;
};
struct Extension {};

// What msgpack can say, its texts and bytes as views.
struct Value;
struct Entry;
using List = std::vector<Value>;
using Map = std::vector<Entry>;
struct Value {
    std::variant<std::monostate, bool, uint64_t, int64_t, double, std::string_view, Bytes,
                 Extension, List, Map, Array>
        is;

    template <typename Type> const Type* as() const { return std::get_if<Type>(&is); }
    bool is_null() const { return is.index() == 0; }
    std::string type() const; // in words, for errors
};
struct Entry {
    Value key, value;
};

// Reads one message, a map with texts as keys. Its values are views of `bytes`. Takes memory of the
// order of what was sent, whatever it announces. Throws MessageError.
Map unpack(std::string_view bytes);

// A text of a client for an error: in quotes, at most 80 bytes, without control characters.
std::string in_quotes(std::string_view text);

// [2, 3], as errors show a shape.
std::string shape_text(const std::vector<uint64_t>& shape);

} // namespace actquant::server
