#include "tokenizer/bpe.h"

#include "common/error.h"

#include <algorithm>
#include <bit>
#include <cstdio>
#include <queue>

namespace actquant {
namespace {

uint64_t pair_of(int32_t left, int32_t right) {
    return static_cast<uint64_t>(static_cast<uint32_t>(left)) << 32 | static_cast<uint32_t>(right);
}

size_t hash_of(uint64_t pair) {
    return static_cast<size_t>((pair * 0x9e3779b97f4a7c15u) >> 32);
}

size_t character_length(char lead) {
    auto byte = static_cast<uint8_t>(lead);
    return byte < 0x80 ? 1 : byte < 0xe0 ? 2 : byte < 0xf0 ? 3 : 4;
}

} // namespace

// The tokens of a word while they are merged, as a doubly linked list.
class BpeModel::Word {
  public:
    explicit Word(const BpeModel& model) : model(model) {}

    void add(int32_t id) {
        int32_t place = static_cast<int32_t>(symbols.size());
        symbols.push_back({id, place - 1, place + 1});
    }

    void merge() {
        if (symbols.empty()) {
            return;
        }
        symbols.back().next = none;
        for (int32_t k = 0; symbols[k].next != none; k++) {
            queue_pair(k);
        }
        while (!queue.empty()) {
            Candidate best = queue.top();
            queue.pop();
            if (is_current(best)) {
                merge_at(best.place, best.result);
            }
        }
    }

    void append_to(std::vector<int64_t>& ids) const {
        for (size_t k = 0; k < symbols.size(); k++) {
            if (symbols[k].id != merged_away) {
                ids.push_back(symbols[k].id);
            }
        }
    }

  private:
    static constexpr int32_t none = -1;
    static constexpr int32_t merged_away = -1;

    struct Symbol {
        int32_t id;
        int32_t previous;
        int32_t next;
    };
    struct Candidate {
        uint32_t rank;
        int32_t place;
        int32_t result;

        // The queue gives the lowest rank first, from left to right.
        bool operator<(const Candidate& other) const {
            return rank != other.rank ? rank > other.rank : place > other.place;
        }
    };

    void queue_pair(int32_t place) {
        const Symbol& left = symbols[place];
        if (const Merge* merge = model.find_merge(left.id, symbols[left.next].id)) {
            queue.push({merge->rank, place, merge->result});
        }
    }

    // What was queued may have been merged otherwise since.
    bool is_current(const Candidate& candidate) const {
        const Symbol& left = symbols[candidate.place];
        if (left.id == merged_away || left.next == none) {
            return false;
        }
        const Merge* merge = model.find_merge(left.id, symbols[left.next].id);
        return merge != nullptr && merge->result == candidate.result;
    }

    void merge_at(int32_t place, int32_t result) {
        Symbol& left = symbols[place];
        Symbol& right = symbols[left.next];
        left.id = result;
        left.next = right.next;
        right.id = merged_away;
        if (left.next != none) {
            symbols[left.next].previous = place;
            queue_pair(place);
        }
        if (left.previous != none) {
            queue_pair(left.previous);
        }
    }

    const BpeModel& model;
    std::vector<Symbol> symbols;
    std::priority_queue<Candidate> queue;
};

BpeModel::BpeModel(BpeOptions options, Vocabulary vocabulary, const StringList& merges)
    : options(std::move(options)), tokens(std::move(vocabulary)) {
    build_merges(merges);
}

void BpeModel::build_merges(const StringList& merges) {
    size_t count = merges.size() / 2;
    merge_slots.assign(std::bit_ceil(count + count / 2 + 2), Merge{});
    std::string whole;
    for (size_t rank = 0; rank < count; rank++) {
        std::string_view left = merges[2 * rank];
        std::string_view right = merges[2 * rank + 1];
        whole = left;
        whole += right.substr(std::min(options.continuing_prefix.size(), right.size()));
        int32_t left_id = tokens.find(left);
        int32_t right_id = tokens.find(right);
        int32_t result = tokens.find(whole);
        for (auto [id, token] : {std::pair<int32_t, std::string_view>(left_id, left),
                                 {right_id, right},
                                 {result, whole}}) {
            if (id == Vocabulary::absent) {
                throw FileError("the tokenizer's merge " + std::to_string(rank) + " needs '" +
                                std::string(token) + "', which is no token");
            }
        }
        add_merge({pair_of(left_id, right_id), static_cast<uint32_t>(rank), result});
    }
}

void BpeModel::add_merge(const Merge& merge) {
    size_t place = hash_of(merge.pair) & (merge_slots.size() - 1);
    while (merge_slots[place].pair != no_pair && merge_slots[place].pair != merge.pair) {
        place = (place + 1) & (merge_slots.size() - 1);
    }
    merge_slots[place] = merge;
}

const BpeModel::Merge* BpeModel::find_merge(int32_t left, int32_t right) const {
    uint64_t pair = pair_of(left, right);
    size_t place = hash_of(pair) & (merge_slots.size() - 1);
    while (merge_slots[place].pair != no_pair) {
        if (merge_slots[place].pair == pair) {
            return &merge_slots[place];
        }
        place = (place + 1) & (merge_slots.size() - 1);
    }
    return nullptr;
}

int32_t BpeModel::unknown_id() const {
    int32_t id = tokens.find(*options.unknown_token);
    if (id == Vocabulary::absent) {
        throw FileError("the tokenizer's unk_token '" + *options.unknown_token +
                        "' is not in its vocabulary");
    }
    return id;
}

bool BpeModel::add_bytes(std::string_view text, Word& word) const {
    std::vector<int32_t> ids;
    for (char c : text) {
        char token[8];
        std::snprintf(token, sizeof token, "<0x%02X>", static_cast<unsigned char>(c));
        ids.push_back(tokens.find(token));
    }
    if (std::find(ids.begin(), ids.end(), Vocabulary::absent) != ids.end()) {
        return false;
    }
    for (int32_t id : ids) {
        word.add(id);
    }
    return true;
}

void BpeModel::encode(std::string_view text, std::vector<int64_t>& ids) const {
    if (options.ignores_merges) {
        int32_t id = tokens.find(text);
        if (id != Vocabulary::absent) {
            ids.push_back(id);
            return;
        }
    }
    Word word(*this);
    bool has_unknown = false; // one that is not added yet, as more may join it
    auto add_unknown = [&] {
        if (has_unknown) {
            word.add(unknown_id());
            has_unknown = false;
        }
    };
    std::string character;
    for (size_t place = 0; place < text.size();) {
        size_t end = std::min(place + character_length(text[place]), text.size());
        character = place == 0 ? "" : options.continuing_prefix;
        character += text.substr(place, end - place);
        character += end == text.size() ? options.word_suffix : "";
        place = end;
        int32_t id = tokens.find(character);
        if (id != Vocabulary::absent) {
            add_unknown();
            word.add(id);
        } else if (options.falls_back_to_bytes && add_bytes(character, word)) {
            continue;
        } else if (options.unknown_token) {
            if (!options.fuses_unknown) {
                add_unknown();
            }
            has_unknown = true;
        }
    }
    add_unknown();
    word.merge();
    word.append_to(ids);
}

} // namespace actquant
