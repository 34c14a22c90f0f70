//! The laws of the repository as tests: what `cargo xtask` would say, `cargo test` refuses.

use xtask::{catalogue, contract, tidy};

#[track_caller]
fn none(problems: &[String]) {
    assert!(problems.is_empty(), "\n{}\n", problems.join("\n"));
}

#[test]
fn rendered_files_are_as_the_catalogue_says() {
    let root = xtask::root().unwrap();
    none(&xtask::rendered(&root, &catalogue::all()).unwrap().check(&root));
}

#[test]
fn every_launch_agent_holds_once_it_is_installed() {
    let temp = tempfile::tempdir().unwrap();
    let agents = mirror_agents::agents(&catalogue::all(), &catalogue::jobs()).unwrap();
    assert!(!agents.is_empty(), "the catalogue is empty");
    for agent in agents {
        let (name, text) = (agent.file_name(), agent.filled(&temp.path().join("bin"), temp.path()));
        mirror_agents::validate(&name, &text).unwrap_or_else(|e| panic!("{name}: {e}"));
    }
}

#[test]
fn the_lock_is_the_contract() {
    let root = xtask::root().unwrap();
    let text = contract::lock::render(&contract::pool().unwrap());
    let now = std::fs::read_to_string(root.join(contract::LOCK)).unwrap_or_default();
    let gone = now.lines().filter(|l| !text.lines().any(|t| t == *l)).map(|l| format!("- {l}"));
    let new = text.lines().filter(|l| !now.lines().any(|t| t == *l)).map(|l| format!("+ {l}"));
    let changes: Vec<String> = gone.chain(new).collect();
    assert!(now == text, "run `cargo xtask contract`; it would change:\n{}\n", changes.join("\n"));
}

#[test]
fn the_contract_only_grows() {
    let root = xtask::root().unwrap();
    // Without git, or before the first commit, there is no earlier promise to keep.
    let committed = contract::committed(&root).unwrap_or_default();
    none(&contract::compat::breaks(&committed, &contract::lock::render(&contract::pool().unwrap())));
}

#[test]
fn the_contract_is_written_by_its_laws() {
    none(&contract::law::problems(&contract::pool().unwrap()));
}

#[test]
fn the_tree_is_tidy() {
    none(&tidy::problems(&xtask::root().unwrap(), &catalogue::all()).unwrap());
}
