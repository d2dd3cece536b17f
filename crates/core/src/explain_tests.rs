//! What is said to people about placements.

use fleet_types::{AgentId, NodeId};

use crate::{
    explain::{Obstacle, remedies},
    placement_tests::{Ask, PLAIN, Size, asking, cluster, create, lose, register, sized},
    property_tests::{command, fleet},
    *,
};

const GIB: u64 = 1 << 30;

fn cordon(state: &mut State, node: NodeId) {
    let set = SetSchedulable { node, schedulable: Schedulable::Cordoned, drain: None };
    apply(state, 2_000, &command(Operation::SetSchedulable(set))).unwrap();
}

#[test]
fn the_ways_out_are_all_that_hinders_the_least_first() {
    let size = Size { ports: 31, memory_gib: 1, rack: 0, version: 2 };
    let large = Size { memory_gib: 8, ..size };
    let (mut state, nodes) = cluster(&[size, large, large, large, Size { version: 1, ..large }]);
    cordon(&mut state, nodes[1]);
    lose(&mut state, nodes[2]);
    lose(&mut state, nodes[3]);
    cordon(&mut state, nodes[3]);
    let ask = asking(Ask { memory: 8, version: 2, ..PLAIN });
    create(&mut state, 2_001, fleet(0), "a", None, ask, Admission::Unchecked).unwrap();
    let id: AgentId = "f0/a".parse().unwrap();
    let left = Obstacle::NoRoom(Lack::Memory(GIB));
    let fenced = Obstacle::NotUp(NodeStatus::Fenced);
    let expected = vec![
        (nodes[1], vec![Obstacle::NotOpen(Schedulable::Cordoned)]),
        (nodes[0], vec![left]),
        (nodes[2], vec![fenced]),
    ];
    assert_eq!(remedies(&state, &state.agents()[&id]), expected);

    // What is said is true: each of them alone is enough.
    let placed = |state: &State| !plan::placements(state, 1, 0).is_empty();
    assert!(!placed(&state));
    let mut back = state.clone();
    register(&mut back, nodes[2], sized(large));
    assert!(placed(&back) && remedies(&back, &back.agents()[&id]).is_empty());
    let (node, schedulable) = (nodes[1], Schedulable::Open);
    let open = SetSchedulable { node, schedulable, drain: None };
    let mut opened = state.clone();
    apply(&mut opened, 2_002, &command(Operation::SetSchedulable(open))).unwrap();
    assert!(placed(&opened));
    register(&mut state, nodes[0], sized(Size { memory_gib: 2, ..size }));
    assert!(placed(&state));
}
