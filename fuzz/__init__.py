"""
Fuzzing: whatever comes from outside, by the million, guided by what it reaches.

    python -m fuzz --list               the targets
    python -m fuzz address --seconds 60
    make fuzz SECONDS=120               all of them, so long for each, two at a time

A target is a function of octets that fails when a promise is broken: it raises what nobody declared, or an assertion of its
own does not hold. The cores of the protocols are held against models that are written in another way than they are: whole
octets in one piece, split by hand. The same models stand behind the machines of Hypothesis in tests/fuzz.

`fuzz/corpus/TARGET` holds the inputs from which a run begins. An input that fails is written there, and so stays a test: the
unit tests run every file through its target. atheris (libFuzzer) finds new inputs; nothing else here needs it.
"""
