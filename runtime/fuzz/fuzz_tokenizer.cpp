// A tokenizer.json and, behind the first NUL, a text to encode.
#include "common/error.h"
#include "tokenizer/tokenizer.h"

#include <cstdint>

using namespace actquant;

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
    std::string_view input(reinterpret_cast<const char*>(data), size);
    size_t end = std::min(input.find('\0'), size);
    try {
        Tokenizer tokenizer(input.substr(0, end));
        if (end < size) {
            tokenizer.encode(input.substr(end + 1));
        }
        tokenizer.encode("pick up the red cube 12 aaaa\n");
    } catch (const FileError&) {
    }
    return 0;
}
