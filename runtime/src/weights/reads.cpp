#include "weights/reads.h"

namespace actquant {

Reads reads_of(const PolicySpec& spec) {
    Reads reads;
    for (const auto& [stage, program] : spec.programs) {
        for (const Instruction& instruction : program.structure().instructions) {
            for (size_t k = 0; k < instruction.operands.size(); k++) {
                if (is_file_tensor(instruction.operands[k])) {
                    bool is_table = instruction.op == "embedding" && k == 0;
                    (is_table ? reads.looked_up : reads.whole)
                        .insert(instruction.operands[k].substr(1));
                }
            }
        }
    }
    for (const std::string& name : reads.whole) {
        reads.looked_up.erase(name);
    }
    return reads;
}

} // namespace actquant
