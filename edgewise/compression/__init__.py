"""Models made smaller beyond rounding: fewer bits and more zeros where a model feels them least."""
