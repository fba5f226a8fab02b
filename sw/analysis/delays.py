"""Delays of UltraScale+ cells in ns, for the longest paths of ``hwgen report``: a table, not a timing closure.

The part is an xck26-2LV (Kria K26, speed grade 2 at 0.72 V); every value names its source:

* **K26**: measured on that part after routing with Vivado 2026.1, in published paths of designs that closed at 250 MHz with 36% and
  with 66% of the look-up tables in use.
* **ZU3**: routed paths of an xczu3eg, speed grade 1 at 0.85 V, as Vivado 2021.2 reports them: `inlining`, `pow` and
  `lpm.futil-ultrascale-timing-*` in github.com/gussmith23/lakeroad-evaluation. DS925 1.30, "DSP48 Slice Switching Characteristics",
  gives both grades nearly the same clock: 645 and 644 MHz with all registers used, 456 and 440 MHz without MREG.
* **assumed**: nothing was at hand; on the slow side of what the neighbours in this table show.

Nets have the mean length of those of a device of which two thirds are full, whatever their fan-out; nothing is placed. K26's paths
are what a tool left at its budget, not the best that it could do, so the table gives an order: keep `MARGIN` to `BUDGET`.
"""

from __future__ import annotations

__all__ = ["BUDGET", "MARGIN", "NET", "NETS", "TARGET"]

#: Budget of a data path at 250 MHz, from the clock at the first register to the data at the last: 4.000 less skew (0.25 to 0.28)
#: and uncertainty (0.122), and with the setup of a register, which is after the edge (0.044) [K26].
BUDGET = 3.65

#: Distance to keep to the budget, because the table is not exact, and the longest path that leaves it.
MARGIN = 0.12
TARGET = 3.2

#: Mean delay of a net, by the per cent of look-up tables in use [K26: 0.05 to 0.30 and 0.07 to 0.59].
NETS = {36: 0.15, 66: 0.30}
NET = NETS[66]

# ---- logic and registers ---------------------------------------------------------------------------------------------
LUT = 0.11  # any input to the output [K26: 0.06 to 0.19, mean 0.11]
WIDE_MUX = 0.06  # MUXF7 to F9, in the slice of its look-up tables [assumed; ZU3 0.05]
REGISTER_OUT = 0.10  # clock to output [ZU3 0.093 to 0.096]; the setup is in the budget

# ---- carry chains, a cell of 4 bits; two of them are a CARRY8 ------------------------------------------------------------
LUT_TO_CARRY = 0.011  # from the look-up table of the same slice to S [ZU3 0.010 to 0.018]
CARRY_IN = 0.245  # S, DI or CYINIT to CO [ZU3, over 8 bits: 0.195 to 0.248 from S, 0.148 to 0.177 from DI]
CARRY_SUM = 0.25  # S, DI or CYINIT to O [ZU3 0.177 to 0.250]
CARRY_THROUGH = 0.03  # CI to CO, and the net to the next cell [ZU3, for 8 bits: 0.030, net 0.028 to 0.060]
CARRY_OUT = 0.146  # CI to O [ZU3 0.146]
CARRY_TO_REGISTER = 0.031  # O to the register of its slice [ZU3 0.031]

# ---- memories --------------------------------------------------------------------------------------------------------
BLOCK_RAM_OUT = 1.21  # clock to output without output register [K26]
BLOCK_RAM_OUT_REGISTERED = 0.36  # [assumed: 0.29 of it, as DS958 1.11 has it for Versal -2LLE, 0.333 of 1.141]
ULTRA_RAM_OUT = 1.70  # clock to output without output register [K26]
ULTRA_RAM_OUT_REGISTERED = 0.60  # [assumed]
ULTRA_RAM_CASCADE = 0.45  # through one more row of a matrix without register [assumed: a net and the slowest look-up table]
MEMORY_SETUP = 0.40  # address, data, enable of either, beyond the setup of a register [assumed]
LUT_RAM_READ = 0.19  # address to output [assumed: the slowest look-up table, K26]
LUT_RAM_OUT = 0.75  # clock to output, of a word that is being written; a shift register as well [assumed]
LUT_RAM_SETUP = 0.15  # data, write address, enable, beyond the setup of a register [assumed]

# ---- DSP48E2, stage by stage; a register on the way starts the path anew ---------------------------------------------------
DSP_INPUT = 0.195  # A, B, C, D to the next stage, without register [ZU3]
DSP_PREADD = 0.092  # [ZU3]
DSP_MULTIPLY = 0.737  # [ZU3]
DSP_M = 0.059  # product to adder without MREG [ZU3]
DSP_ADD = 0.699  # product, C or PCIN to the sum [ZU3 0.698 and 0.699]
DSP_OUTPUT = 0.159  # sum to P or PCOUT without PREG [ZU3 0.141 and 0.159]
DSP_REGISTER_OUT = 0.263  # clock of any of its registers to the next stage or to P [ZU3, of BREG]
DSP_SETUP = 0.159  # any input that goes to a register, beyond the setup of one [assumed; CEA2 of an UltraScale+ slice 0.159]
DSP_CASCADE = 0.08  # PCOUT to PCIN of the next slice [ZU3 0.016 to 0.080]
