//! `mirror changelog`: pages of days, and what is added to them.

use std::collections::{HashMap, VecDeque};

use mirror_clock::{Clock as _, SystemClock};
use mirror_contract::mirror::changelog::v1::{Day, Entry, GetChangelogRequest, WatchChangelogRequest};
use serde_json::json;

use crate::args::ChangelogArgs;
use crate::client::{Patience, may_come_back};
use crate::ctx::Ctx;
use crate::failure::Failure;
use crate::out::{DIM, GOOD, HEAD, Out};
use crate::text::{self, one_line};

/// Lines that a follower remembers, so that it shows only what is new.
const SEEN_LIMIT: usize = 50_000;

pub(crate) async fn run(ctx: &Ctx, out: &mut Out, args: &ChangelogArgs) -> Result<(), Failure> {
    if args.follow {
        return follow(ctx, out, args).await;
    }
    let day = args.day.as_deref().map(day_of).unwrap_or_default();
    let request = GetChangelogRequest {
        from_day: day.clone(),
        to_day: day,
        writer: args.writer.clone().unwrap_or_default(),
        days: args.days,
    };
    let answer = ctx.changelog()?.get_changelog(request).await;
    let pages = answer.map_err(|s| ctx.refused("changelog", &s))?.into_inner();
    if out.json_wanted() {
        return pages.days.iter().try_for_each(|day| out.json(&day_json(day)));
    }
    if pages.days.is_empty() {
        crate::out::say("nothing has happened in these days");
    }
    for (i, day) in pages.days.iter().enumerate() {
        if i > 0 {
            out.line("")?;
        }
        page(out, day)?;
    }
    Ok(())
}

/// Returns the day that a word means; what is no such word is left for the service to judge.
fn day_of(text: &str) -> String {
    let ago = match text {
        "today" => 0,
        "yesterday" => 1,
        _ => return text.to_owned(),
    };
    text::utc_day(SystemClock.wall_ms(), ago).unwrap_or_else(|| text.to_owned())
}

async fn follow(ctx: &Ctx, out: &mut Out, args: &ChangelogArgs) -> Result<(), Failure> {
    let request = WatchChangelogRequest { writer: args.writer.clone().unwrap_or_default() };
    let mut client = ctx.changelog()?;
    let mut shown = Shown::default();
    let mut patience = Patience::new("changelog");
    let mut first = true;
    loop {
        let mut stream = match client.watch_changelog(request.clone()).await {
            Ok(answer) => answer.into_inner(),
            Err(status) if !first && may_come_back(&status) => {
                patience.wait().await;
                continue;
            }
            Err(status) => return Err(ctx.refused("changelog", &status)),
        };
        first = false;
        loop {
            match stream.message().await {
                Ok(Some(change)) => {
                    patience.answered();
                    let Some(day) = change.day else { continue };
                    for entry in shown.news(&day) {
                        added(out, &day.day, entry)?;
                    }
                    out.flush()?;
                }
                Ok(None) => break,
                Err(status) if may_come_back(&status) => break,
                Err(status) => return Err(ctx.refused("changelog", &status)),
            }
        }
        patience.wait().await;
    }
}

/// What a follower has shown: an entry is known by where it begins, and new again when it has grown.
#[derive(Debug, Default)]
struct Shown {
    last: HashMap<(String, u64), (u64, u64)>,
    order: VecDeque<(String, u64)>,
}

impl Shown {
    fn news<'a>(&mut self, day: &'a Day) -> Vec<&'a Entry> {
        let mut news = Vec::new();
        for entry in &day.entries {
            let key = (format!("{}\n{}", day.day, entry.writer), entry.first_seq);
            let state = (entry.last_seq, entry.events);
            match self.last.insert(key.clone(), state) {
                Some(before) if before == state => continue,
                Some(_) => {}
                None => self.order.push_back(key),
            }
            news.push(entry);
        }
        while self.order.len() > SEEN_LIMIT {
            if let Some(oldest) = self.order.pop_front() {
                self.last.remove(&oldest);
            }
        }
        news
    }
}

fn page(out: &mut Out, day: &Day) -> Result<(), Failure> {
    let heading = out.paint(HEAD, &day.day);
    out.line(&format!("{heading} {}", out.paint(DIM, "(UTC)")))?;
    let mut writer = None;
    for entry in &day.entries {
        if writer != Some(&entry.writer) {
            let name = out.paint(GOOD, &one_line(&entry.writer, 60));
            out.line(&format!("  {name}"))?;
            writer = Some(&entry.writer);
        }
        let (span, note) = (span(entry), note(entry));
        let room = out.width().map_or(usize::MAX, |w| w.saturating_sub(8 + span.len() + note.len()).max(20));
        let line = format!("    {span}  {}  {}", one_line(&entry.text, room), out.paint(DIM, &note));
        out.line(line.trim_end())?;
    }
    Ok(())
}

fn added(out: &mut Out, day: &str, entry: &Entry) -> Result<(), Failure> {
    if out.json_wanted() {
        let mut value = entry_json(entry);
        value["day"] = day.into();
        return out.json(&value);
    }
    let (writer, note) = (one_line(&entry.writer, 60), note(entry));
    let head = format!("{day} {}  ", span(entry));
    let room = out
        .width()
        .map_or(usize::MAX, |w| w.saturating_sub(head.len() + writer.len() + note.len() + 4).max(20));
    let line = format!(
        "{}{}  {}  {}",
        out.paint(DIM, &head),
        out.paint(GOOD, &writer),
        one_line(&entry.text, room),
        out.paint(DIM, &note)
    );
    out.line(line.trim_end())
}

fn span(entry: &Entry) -> String {
    let short = |time: &str| time.get(..5).unwrap_or(time).to_owned();
    let (start, end) = (short(&entry.start), short(&entry.end));
    if start == end { format!("{start}      ") } else { format!("{start}-{end}") }
}

fn note(entry: &Entry) -> String {
    match (entry.events, entry.first_seq, entry.last_seq) {
        (1, first, _) => format!("[{first}]"),
        (n, first, last) => format!("[{}, {first}-{last}]", text::some(n, "event")),
    }
}

fn day_json(day: &Day) -> serde_json::Value {
    json!({"day": day.day, "entries": day.entries.iter().map(entry_json).collect::<Vec<_>>()})
}

fn entry_json(entry: &Entry) -> serde_json::Value {
    let mut value = json!({
        "writer": entry.writer,
        "text": entry.text,
        "start": entry.start,
        "end": entry.end,
        "events": entry.events,
        "first_seq": entry.first_seq,
        "last_seq": entry.last_seq,
    });
    if !entry.session.is_empty() {
        value["session"] = entry.session.as_str().into();
    }
    value
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_follower_sees_an_entry_again_only_when_it_has_grown() {
        let entry = |first_seq, last_seq| Entry { first_seq, last_seq, events: 1, ..Entry::default() };
        let day = |entries| Day { day: "2026-03-04".into(), entries };
        let mut shown = Shown::default();
        assert_eq!(shown.news(&day(vec![entry(1, 1), entry(2, 2)])).len(), 2);
        assert_eq!(shown.news(&day(vec![entry(1, 1), entry(2, 2)])).len(), 0);
        let page = day(vec![entry(1, 1), entry(2, 5), entry(6, 6)]);
        let news: Vec<u64> = shown.news(&page).iter().map(|e| e.first_seq).collect();
        assert_eq!(news, [2, 6]);
    }

    #[test]
    fn a_moment_is_not_shown_as_a_span() {
        let entry =
            |start: &str, end: &str| Entry { start: start.into(), end: end.into(), ..Entry::default() };
        assert_eq!(span(&entry("10:00:01", "10:00:59")), "10:00      ");
        assert_eq!(span(&entry("10:00:01", "11:30:00")), "10:00-11:30");
        assert_eq!(span(&entry("", "")), "      ");
    }
}
