//! Property lists that were edited, broken or removed by somebody else.

use std::fs;

use mirror_supervisor::{AgentState, Backend as _};

use crate::stage::Stage;

const SLEEP: &str = "exec sleep 1000";

#[tokio::test]
async fn a_list_with_an_unknown_key_is_not_loaded_and_its_line_is_named() {
    let mut stage = Stage::new();
    stage.add("a", SLEEP, |_| {});
    stage.add("b", SLEEP, |_| {});
    assert_eq!(stage.lay(), 2);
    assert_eq!(stage.lay(), 0, "a list that is as it should be is not written again");
    stage.edit("a", "<key>RunAtLoad</key>", "<key>RunAtload</key>");
    let line =
        fs::read_to_string(stage.list("a")).unwrap().lines().position(|l| l.contains("RunAtload")).unwrap()
            + 1;
    let up = stage.run().await;
    let row = up.row("a");
    assert_eq!((row.state, row.starts), (AgentState::NotLoaded, 0));
    let said = format!("line {line}: key RunAtload: is unknown");
    assert!(row.problem.contains(&said), "{said} in {}", row.problem);
    assert!(stage.said().contains(&said), "{}", stage.said());
    up.running("b", 1).await;

    let refused = up.handle.start("a").await.unwrap_err().to_string();
    assert!(refused.contains("cannot start a") && refused.contains(&said), "{refused}");
    let (changed, row) = up.handle.render("a").await.unwrap();
    assert!(changed && row.problem.is_empty(), "{row:?}");
    up.running("a", 1).await;
    let (changed, _) = up.handle.render("a").await.unwrap();
    assert!(!changed);
    assert_eq!(up.row("a").starts, 1, "a list that is as it should be restarts nothing");
    up.end().await;
}

#[tokio::test]
async fn an_edit_is_shown_and_undone() {
    let mut stage = Stage::new();
    stage.add("a", SLEEP, |_| {});
    let up = stage.up().await;
    let pid = up.running("a", 1).await.pid;
    let problem = async || {
        up.handle.refresh().await.unwrap();
        up.row("a").problem
    };
    assert_eq!(problem().await, "");
    stage.edit("a", "<integer>10</integer>", "<integer>20</integer>");
    assert!(problem().await.contains("edited after it was loaded"), "{}", problem().await);
    stage.edit("a", "<key>RunAtLoad</key>", "<key>Label</key>\n<string>x</string>\n<key>RunAtLoad</key>");
    assert!(problem().await.contains("the key Label is given twice"), "{}", problem().await);
    fs::remove_file(stage.list("a")).unwrap();
    assert!(problem().await.contains("cannot be read"), "{}", problem().await);
    let (changed, row) = up.handle.render("a").await.unwrap();
    assert!(changed && row.problem.is_empty(), "{row:?}");
    assert_eq!(up.row("a").pid, pid, "it ran from the right list all the time");
    up.end().await;
}

#[tokio::test]
async fn what_runs_from_an_edited_list_is_loaded_again() {
    let mut stage = Stage::new();
    stage.add("a", SLEEP, |_| {});
    stage.lay();
    stage.edit("a", "<integer>10</integer>", "<integer>20</integer>");
    let up = stage.run().await;
    let row = up.running("a", 1).await;
    assert!(row.problem.contains("it runs from that"), "{row:?}");
    let (changed, _) = up.handle.render("a").await.unwrap();
    assert!(changed);
    let after = up.state("a", AgentState::Throttled).await;
    assert_eq!(
        (after.problem.as_str(), after.next_start_ms),
        ("", row.started_ms + 10_000),
        "by the new list"
    );
    stage.pass(10);
    assert_ne!(up.running("a", 2).await.pid, row.pid);
    up.end().await;
}
