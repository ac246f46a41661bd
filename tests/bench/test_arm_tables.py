from et_pipeline.bench.arm_tables import tables


def row(what, at, instructions):
    return {"what": what, "at": at, "instructions": instructions} | {
        "dot products": instructions / 4,
        "products of matrices": 0.0,
        "loads and stores": instructions / 5,
        "SIMD": instructions / 2,
    }


def test_a_line_for_each_program_and_a_column_for_each_place():
    lines = tables(
        {
            "programs": {
                "ours": [row("decode", 64, 51.44), row("prefill", 128, 9.876)],
                "theirs": [row("decode", 1024, 82)],
            }
        }
    ).splitlines()
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]
    assert cells[0] == ["millions of instructions a token", "decode 64", "decode 1,024", "prefill 128"]
    assert ["ours", "51.4", "", "9.88"] in cells
    assert ["theirs", "", "82.0", ""] in cells
    assert cells[-1] == ["ours", "25 %", "20 %", "50 %"]
