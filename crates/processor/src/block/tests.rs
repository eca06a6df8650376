use super::*;
use crate::shared::Stage;

const TASK: TaskId = TaskId { stage: Stage::Account, partition: 3 };

fn head(sequence: u64, complete_from: u64) -> Head {
    Head {
        task: TASK,
        sequence,
        complete_from,
        rules: [7; 16],
        partitions: 6,
        plans: vec![PlanState {
            name: "ventas_gold".into(),
            fingerprint: [9; 8],
            incarnation: 4,
            version: 2,
        }],
        next_offset: 42,
        table_offset: 5,
        body: vec![1, 2, 3],
        growths: Vec::new(),
    }
}

/// Parts of a block with so many entries of two hundred bytes.
fn parts(head: &Head, entries: u64) -> Vec<Vec<u8>> {
    let mut all = Entries::new(768 * 1024);
    for i in 0..entries {
        all.accumulator(0, |out| {
            write_count(out, i);
            out.bytes(&[0; 200]);
        });
    }
    all.into_parts(head)
}

fn read(block: &Block) -> Vec<u64> {
    let mut read = Vec::new();
    block
        .for_each(|entry, input| {
            assert_eq!(entry, Entry::Accumulator(0));
            read.push(read_count(input)?);
            input.bytes().map(|_| ())
        })
        .expect("entries");
    read
}

#[test]
fn a_block_of_many_parts_reads_back() {
    for entries in [0, 1, 20_000] {
        let parts = parts(&head(0, 0), entries);
        assert!(parts.iter().all(|p| p.len() < 1024 * 1024));
        assert_eq!(parts.len() > 1, entries == 20_000);
        let mut assembler = Assembler::default();
        let whole: Vec<Block> =
            parts.iter().filter_map(|p| assembler.add(p).expect("part")).collect();
        assembler.finish(TASK).expect("whole");
        assert_eq!(whole.len(), 1);
        assert_eq!(whole[0].head, head(0, 0));
        assert_eq!(read(&whole[0]), (0..entries).collect::<Vec<_>>());
    }
}

#[test]
fn growths_read_back_and_cost_nothing_where_there_are_none() {
    let growth = |partitions, next_offset| Growth { partitions, next_offset };
    let grown = Head { growths: vec![growth(6, 40), growth(8, 42)], ..head(0, 0) };
    for head in [head(0, 0), grown] {
        let part = parts(&head, 1).remove(0);
        assert_eq!(part[0], if head.growths.is_empty() { 4 } else { 6 }, "version, zigzag");
        let mut assembler = Assembler::default();
        let block = assembler.add(&part).expect("part").expect("block");
        assert_eq!((&block.head, read(&block)), (&head, vec![0]));
    }
}

#[test]
fn missing_parts_and_blocks_are_noticed() {
    let many = parts(&head(0, 0), 20_000);
    let mut assembler = Assembler::default();
    assembler.add(&many[0]).expect("first");
    assert!(assembler.finish(TASK).is_err());
    assert!(assembler.add(&many[2]).is_err());
    let mut assembler = Assembler::default();
    assembler.add(&parts(&head(0, 0), 1)[0]).expect("block 0");
    let missing = assembler.add(&parts(&head(2, 0), 1)[0]);
    assert!(matches!(missing, Err(BlockError::Missing(_))));
}

#[test]
fn a_log_that_was_cut_too_far_is_noticed() {
    let mut assembler = Assembler::default();
    // The end of an older block, whose beginning was cut off with reason.
    assert_eq!(assembler.add(&parts(&head(6, 0), 20_000)[1]), Ok(None));
    assembler.add(&parts(&head(7, 5), 1)[0]).expect("block 7");
    assert!(assembler.finish(TASK).unwrap_err().to_string().contains("block 5 is needed"));
    assembler.add(&parts(&head(8, 7), 1)[0]).expect("block 8");
    assembler.finish(TASK).expect("block 8 says that 7 is enough");
}

#[test]
fn a_damaged_part_is_noticed() {
    let mut part = parts(&head(0, 0), 2).remove(0);
    part[10] ^= 1;
    assert!(matches!(task_of(&part), Err(BlockError::Damaged(_))));
}
