# SPDX-License-Identifier: MIT
"""Chemical symbols by atomic number (IUPAC 2016), for what must work without ASE."""

CHEMICAL_SYMBOLS: tuple[str, ...] = (
    "X",  # 0: no element; index = atomic number
    *"H He Li Be B C N O F Ne Na Mg Al Si P S Cl Ar K Ca Sc Ti V Cr Mn Fe Co Ni Cu Zn Ga Ge As Se Br Kr".split(),
    *"Rb Sr Y Zr Nb Mo Tc Ru Rh Pd Ag Cd In Sn Sb Te I Xe Cs Ba La Ce Pr Nd Pm Sm Eu Gd Tb Dy Ho Er Tm Yb Lu".split(),
    *"Hf Ta W Re Os Ir Pt Au Hg Tl Pb Bi Po At Rn Fr Ra Ac Th Pa U Np Pu Am Cm Bk Cf Es Fm Md No Lr".split(),
    *"Rf Db Sg Bh Hs Mt Ds Rg Cn Nh Fl Mc Lv Ts Og".split(),
)
ATOMIC_NUMBERS: dict[str, int] = {symbol: number for number, symbol in enumerate(CHEMICAL_SYMBOLS)}
