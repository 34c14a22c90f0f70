//! `mirror log`: stored events, and those to come.

use mirror_clock::{Clock as _, SystemClock};
use mirror_contract::mirror::bus::v1::{Event, Filter, GetStatusRequest, ReadRequest, TailRequest};

use crate::args::LogArgs;
use crate::client::{Patience, may_come_back};
use crate::cmd::event::Lines;
use crate::ctx::Ctx;
use crate::failure::Failure;
use crate::out::Out;
use crate::text;

/// Events shown when nothing says how many.
const DEFAULT_LINES: u64 = 20;

/// Most events that are held back to be shown oldest first.
const HELD_LIMIT: u64 = 100_000;

pub(crate) async fn run(ctx: &Ctx, out: &mut Out, args: &LogArgs) -> Result<(), Failure> {
    let now = SystemClock.wall_ms();
    let moment = |option: &str, text: &Option<String>| {
        let read = text.as_deref().map(|text| text::moment(text, now)).transpose();
        read.map_err(|why| Failure::input(format!("{option} {why}")))
    };
    let filter = Filter {
        subjects: args.subject.clone(),
        actors: args.actor.clone(),
        labels: args.label.clone(),
        since: moment("--since", &args.since)?,
        until: moment("--until", &args.until)?,
    };
    let mut view = View { ctx, out, filter, lines: Lines::default() };
    if args.follow { view.follow(args).await } else { view.stored(args).await }
}

struct View<'a> {
    ctx: &'a Ctx,
    out: &'a mut Out,
    filter: Filter,
    lines: Lines,
}

impl View<'_> {
    async fn stored(&mut self, args: &LogArgs) -> Result<(), Failure> {
        let ranged = args.from.is_some() || args.since.is_some() || args.until.is_some();
        let limit = match args.lines {
            Some(0) => return Ok(()),
            Some(n) => n,
            None if ranged => 0,
            None => DEFAULT_LINES,
        };
        let from = args.from.unwrap_or(0);
        if args.reverse || (ranged && args.lines.is_none()) || args.from.is_some() {
            return self
                .read(ReadRequest { from, limit, reverse: args.reverse, ..ReadRequest::default() })
                .await;
        }
        self.last(limit, 0).await
    }

    /// Prints the events of a range in the order in which they come.
    async fn read(&mut self, request: ReadRequest) -> Result<(), Failure> {
        let request = ReadRequest { filter: Some(self.filter.clone()), ..request };
        let answer = self.ctx.bus()?.read(request).await.map_err(|s| self.ctx.refused("bus", &s))?;
        let mut stream = answer.into_inner();
        while let Some(part) = stream.message().await.map_err(|s| self.ctx.refused("bus", &s))? {
            self.print(&part.events)?;
        }
        Ok(())
    }

    /// Prints the last events up to `head`, oldest first.
    async fn last(&mut self, limit: u64, head: u64) -> Result<(), Failure> {
        if limit > HELD_LIMIT {
            let text = format!(
                "-n {limit} is more than {HELD_LIMIT}; use --from, or --reverse with as many as you like"
            );
            return Err(Failure::input(text));
        }
        let request = ReadRequest {
            from: head,
            limit,
            reverse: true,
            filter: Some(self.filter.clone()),
            ..ReadRequest::default()
        };
        let answer = self.ctx.bus()?.read(request).await.map_err(|s| self.ctx.refused("bus", &s))?;
        let mut stream = answer.into_inner();
        let mut events = Vec::new();
        while let Some(part) = stream.message().await.map_err(|s| self.ctx.refused("bus", &s))? {
            events.extend(part.events);
        }
        events.reverse();
        self.print(&events)
    }

    async fn follow(&mut self, args: &LogArgs) -> Result<(), Failure> {
        let mut bus = self.ctx.bus()?;
        let status = bus.get_status(GetStatusRequest {}).await.map_err(|s| self.ctx.refused("bus", &s))?;
        let head = status.into_inner().head;
        // What was stored by now is read once; the tail begins behind it, so nothing is shown twice or left out.
        let mut upto = match args.from {
            Some(from) => from.max(1) - 1,
            None => {
                let limit = args.lines.unwrap_or(DEFAULT_LINES);
                if limit > 0 && head > 0 {
                    self.last(limit, head).await?;
                    self.out.flush()?;
                }
                head
            }
        };
        let mut patience = Patience::new("bus");
        loop {
            let request = TailRequest { from: upto + 1, filter: Some(self.filter.clone()) };
            let mut stream = match bus.tail(request).await {
                Ok(answer) => answer.into_inner(),
                Err(status) if may_come_back(&status) => {
                    patience.wait().await;
                    continue;
                }
                Err(status) => return Err(self.ctx.refused("bus", &status)),
            };
            loop {
                match stream.message().await {
                    Ok(Some(part)) => {
                        patience.answered();
                        self.print(&part.events)?;
                        self.out.flush()?;
                        let last = part.events.last().map_or(0, |e| e.seq);
                        upto = upto.max(part.upto).max(last);
                    }
                    Ok(None) => break,
                    Err(status) if may_come_back(&status) => break,
                    Err(status) => return Err(self.ctx.refused("bus", &status)),
                }
            }
            patience.wait().await;
        }
    }

    fn print(&mut self, events: &[Event]) -> Result<(), Failure> {
        events.iter().try_for_each(|event| self.lines.print(self.out, event))
    }
}
