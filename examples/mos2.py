"""The demo as a script: reconstruct MoS2, look at the result, compare with the truth. Runs in about 10 s."""

from pypty import check, plan, run
from pypty.demo import agreement_with_truth, demo_params

params = demo_params(output_folder="mos2_result", epoch_max=20)
print(check(params))
plan(params)

result = run(params)
print(result)

result.plot().savefig("mos2_result/overview.png")
result.save("mos2_result/result.h5")
print(f"correlation with the truth: {agreement_with_truth(result).correlation:.4f}")
