"""A judge on your own machine, behind an address that speaks OpenAI's chat format. It needs no network.

    python local_judge.py                             then: python pairwise.py tales-small models/tales-sft
    python local_judge.py --leans 0.3                 a judge that likes what stands in front

It prefers the answer that a model of this course finds more likely, by the mean log-probability of its tokens. That is a poor
judge, as you will measure, and a fair one: it reads both answers alike. `--leans` gives it a habit, to see whether that is found.
"""

import argparse
import json
import re
import sys
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
import course  # noqa: E402

course.setup("ch07/01_main-chapter-code")
from ch07 import answer_row, format_prompt, sequence_log_probs  # noqa: E402
from previous_chapters import load_pretrained  # noqa: E402

PARTS = re.compile("\n".join(rf"\[{name}\]\n(.*?)\n\[/{name}\]" for name in ("Request", "Answer A", "Answer B")), re.S)
MOST_BYTES = 2**18


def likelihood_judge(model_name: str, leans: float = 0.0) -> Callable[[str], str]:
    """A function from the text that `pairwise.question` makes to "A", "B" or "tie"; `leans` nats a token are given to A."""
    model, tokenizer = load_pretrained(model_name)

    def decide(text: str) -> str:
        if not (parts := PARTS.search(text)):
            raise ValueError("the message holds no request with an answer A and an answer B; ask as pairwise.py does")
        request, *answers = parts.groups()
        prompt = format_prompt(request, "", tokenizer)
        rows = [answer_row(prompt, [*tokenizer.encode_ordinary(answer), tokenizer.eot_token]) for answer in answers]
        if max(len(ids) for ids, _ in rows) > model.config.context_length:
            raise ValueError(f"request and answer don't fit into the judge's {model.config.context_length} tokens; shorten them")
        lengths = [sum(target != -100 for target in targets) for _, targets in rows]
        a, b = (total / n for total, n in zip(sequence_log_probs(model, rows).tolist(), lengths, strict=True))
        return "tie" if a + leans == b else "A" if a + leans > b else "B"

    return decide


def handler_for(decide: Callable[[str], str]) -> type[BaseHTTPRequestHandler]:
    """The handler of a server that answers POST /v1/chat/completions with what `decide` says of the last message."""

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self):
            try:
                n = int(self.headers.get("Content-Length", ""))
                if n > MOST_BYTES:
                    return self.reply(413, {"error": {"message": f"a request has {MOST_BYTES:,} bytes at most"}})
                if self.path != "/v1/chat/completions":
                    return self.reply(404, {"error": {"message": "ask at /v1/chat/completions"}})
                said = decide(json.loads(self.rfile.read(n))["messages"][-1]["content"])
            except (ValueError, KeyError, IndexError, TypeError) as error:
                return self.reply(400, {"error": {"message": f"this can't be judged: {error}"}})
            message = {"role": "assistant", "content": said}
            return self.reply(200, {"object": "chat.completion", "model": "local-judge",
                                    "choices": [{"index": 0, "message": message, "finish_reason": "stop"}]})

        def reply(self, status: int, content: dict) -> None:
            data = json.dumps(content).encode()
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        def log_message(self, *_):
            pass

    return Handler


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default=str(course.ROOT / "models" / "tales-sft"), help="whose opinion counts (tales-sft)")
    parser.add_argument("--leans", type=float, default=0.0, metavar="NATS", help="a bonus for the answer in front, a token (0)")
    parser.add_argument("--port", type=int, default=8007)
    options = parser.parse_args(arguments)
    try:
        handler = handler_for(likelihood_judge(options.model, options.leans))
        with ThreadingHTTPServer(("127.0.0.1", options.port), handler) as server:
            print(f"the judge listens at http://127.0.0.1:{server.server_port}/v1; Ctrl+C ends it", flush=True)
            server.serve_forever()
    except KeyboardInterrupt:
        return 0
    except (ValueError, OSError) as error:
        print(f"local_judge.py: {error}", file=sys.stderr)
        return 2


if __name__ == "__main__":
    sys.exit(main())
