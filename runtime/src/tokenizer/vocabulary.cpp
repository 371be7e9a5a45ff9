#include "tokenizer/vocabulary.h"

#include <algorithm>
#include <bit>
#include <functional>

namespace actquant {
namespace {

uint32_t hash_of(std::string_view token) {
    uint64_t hash = std::hash<std::string_view>()(token);
    return static_cast<uint32_t>(hash ^ hash >> 32);
}

} // namespace

void Vocabulary::build_index() {
    slots.assign(std::bit_ceil(std::max<size_t>(2 * tokens.size(), 2)), Slot{});
    distinct = 0;
    for (size_t k = 0; k < tokens.size(); k++) {
        uint32_t hash = hash_of(tokens[k]);
        size_t place = hash & (slots.size() - 1);
        while (slots[place].index_plus_1 != 0 &&
               (slots[place].hash != hash || tokens[slots[place].index_plus_1 - 1] != tokens[k])) {
            place = (place + 1) & (slots.size() - 1);
        }
        distinct += slots[place].index_plus_1 == 0;
        slots[place] = {hash, static_cast<uint32_t>(k + 1)}; // of two equal keys, the last counts
    }
}

int32_t Vocabulary::find(std::string_view token) const {
    uint32_t hash = hash_of(token);
    size_t place = hash & (slots.size() - 1);
    while (slots[place].index_plus_1 != 0) {
        uint32_t index = slots[place].index_plus_1 - 1;
        if (slots[place].hash == hash && tokens[index] == token) {
            return ids[index];
        }
        place = (place + 1) & (slots.size() - 1);
    }
    return absent;
}

} // namespace actquant
