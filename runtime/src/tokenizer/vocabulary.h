#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

namespace actquant {

// Many strings, one after the other in one piece of memory.
class StringList {
  public:
    void add(std::string_view text) {
        characters += text;
        ends.push_back(static_cast<uint32_t>(characters.size()));
    }
    size_t size() const { return ends.size(); }
    std::string_view operator[](size_t k) const {
        uint32_t begin = k == 0 ? 0 : ends[k - 1];
        return std::string_view(characters).substr(begin, ends[k] - begin);
    }

  private:
    std::string characters;
    std::vector<uint32_t> ends;
};

// Token → id. Tokens are added first, then `build_index` makes `find` work.
class Vocabulary {
  public:
    static constexpr int32_t absent = -1;

    void add(std::string_view token, int32_t id) {
        tokens.add(token);
        ids.push_back(id);
    }
    void build_index();
    int32_t find(std::string_view token) const;
    size_t size() const { return distinct; }

  private:
    // Open addressing; the hash is kept beside the index to spare looking at other tokens.
    struct Slot {
        uint32_t hash = 0;
        uint32_t index_plus_1 = 0; // 0: free
    };

    StringList tokens;
    std::vector<int32_t> ids;
    std::vector<Slot> slots;
    size_t distinct = 0;
};

} // namespace actquant
