#!/usr/bin/env python3
"""Makes tests/golden/templates.jsonl with transformers (run once): chat templates of many forms against apply_chat_template, and small
templates that try one construct each.

Each line is [template, rows]. A row is [conversation, variables, text]: the number of a conversation in the first line of the file, variables
beside the messages, and the text, or null where the reference raises an error. The templates are our own, in the manner of the families that
are named beside them. Renderings use the very environment of transformers (utils/chat_template_utils.py)."""
import json
import pathlib

from transformers.utils import chat_template_utils

HERE = pathlib.Path(__file__).parent
S, U, A = (lambda role: lambda text: {"role": role, "content": text})("system"), (lambda t: {"role": "user", "content": t}), (lambda t: {"role": "assistant", "content": t})
TALKS = [
    [U("What is 2+2?")],
    [S("Be brief."), U(" hi \n")],
    [U("a"), A("b"), U("c")],
    [S(" S "), U("a"), A("<think>\nhm, 1 < 2\n</think>\n\nb"), U("c"), A("d")],
    [U("émoji 😀 'q' \"d\" <b>"), A("\n\nx  "), U("<tool_response>y</tool_response>")],
    [U("u1"), U("u2")],
    [],
]
BASE = {"bos_token": "<s>", "eos_token": "</s>", "tools": None, "documents": None, "add_generation_prompt": True}
GEN = "{% if add_generation_prompt %}"


def chatml(opening="<|im_start|>", feed="\\n", end="<|im_end|>", after="\\n", content="m['content']", first="", gen=True, quote="'"):
    body = f"{{{{ '{opening}' + m['role'] + '{feed}' + {content} + '{end}' + '{after}' }}}}"
    return f"{first}{{% for m in messages %}}{body}{{% endfor %}}" + (f"{GEN}{{{{ '{opening}assistant{feed}' }}}}{{% endif %}}" if gen else "")


TEMPLATES = [
    chatml(), chatml(after=""), chatml(content="m.content|trim"), chatml(first="{{ bos_token }}"), chatml(gen=False), chatml(feed=": "), chatml(end="<|end|>", opening="<|"),
    chatml(content="(m.content | replace('\\n', ' '))"), chatml(content="m.get('content', '')"), chatml(after="' + eos_token + '"),
    # default system messages
    "{% for m in messages %}{% if loop.first and m.role != 'system' %}<|im_start|>system\nYou are helpful.<|im_end|>\n{% endif %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}<|im_start|>assistant\n{{ '' }}",
    "{%- if messages[0]['role'] == 'system' %}\n    {{- '[S]' + messages[0]['content'] }}\n{%- else %}\n    {{- '[S]default' }}\n{%- endif %}\n{%- for message in messages %}\n    {%- if message.role != 'system' %}\n        {{- '[' + message.role[0]|upper + ']' + message.content }}\n    {%- endif %}\n{%- endfor %}\n{%- if add_generation_prompt %}\n    {{- '[A]' }}\n{%- endif %}\n",
    "{% set sys = 'none given' %}{% for m in messages if m.role == 'system' %}{% set sys = m.content %}{% endfor %}<{{ sys }}>{% for m in messages if m.role != 'system' %}{{ loop.index }}/{{ loop.length }}:{{ m.content }};{% endfor %}",
    # Llama 2: system folded into the first question, alternation demanded
    "{% if messages[0]['role'] == 'system' %}{% set loop_messages = messages[1:] %}{% set system_message = messages[0]['content'] %}{% else %}{% set loop_messages = messages %}{% set system_message = false %}{% endif %}{% for message in loop_messages %}{% if (message['role'] == 'user') != (loop.index0 % 2 == 0) %}{{ raise_exception('roles must alternate') }}{% endif %}{% if loop.index0 == 0 and system_message != false %}{% set content = '<<SYS>>\\n' + system_message + '\\n<</SYS>>\\n\\n' + message['content'] %}{% else %}{% set content = message['content'] %}{% endif %}{% if message['role'] == 'user' %}{{ bos_token + '[INST] ' + content.strip() + ' [/INST]' }}{% elif message['role'] == 'assistant' %}{{ ' ' + content.strip() + ' ' + eos_token }}{% endif %}{% endfor %}",
    # Mistral: the system message goes to the last question
    "{%- if messages[0][\"role\"] == \"system\" %}\n    {%- set system_message = messages[0][\"content\"] %}\n    {%- set loop_messages = messages[1:] %}\n{%- else %}\n    {%- set loop_messages = messages %}\n{%- endif %}\n{%- set user_messages = loop_messages | selectattr(\"role\", \"equalto\", \"user\") | list %}\n{%- set ns = namespace() %}\n{%- set ns.index = 0 %}\n{%- for message in loop_messages %}\n    {%- if not (message.role == \"tool\" or (message.tool_calls is defined and message.tool_calls is not none)) %}\n        {%- if (message[\"role\"] == \"user\") != (ns.index % 2 == 0) %}\n            {{- raise_exception(\"no alternation\") }}\n        {%- endif %}\n        {%- set ns.index = ns.index + 1 %}\n    {%- endif %}\n{%- endfor %}\n{{- bos_token }}\n{%- for message in loop_messages %}\n    {%- if message[\"role\"] == \"user\" %}\n        {%- if loop.last and system_message is defined %}\n            {{- \"[INST] \" + system_message + \"\\n\\n\" + message[\"content\"] + \"[/INST]\" }}\n        {%- else %}\n            {{- \"[INST] \" + message[\"content\"] + \"[/INST]\" }}\n        {%- endif %}\n    {%- elif message[\"role\"] == \"assistant\" %}\n        {{- \" \" + message[\"content\"]|trim + eos_token}}\n    {%- endif %}\n{%- endfor %}\n",
    # Llama 3
    "{% set loop_messages = messages %}{% for message in loop_messages %}{% set content = '<|start_header_id|>' + message['role'] + '<|end_header_id|>\\n\\n'+ message['content'] | trim + '<|eot_id|>' %}{% if loop.index0 == 0 %}{% set content = bos_token + content %}{% endif %}{{ content }}{% endfor %}{% if add_generation_prompt %}{{ '<|start_header_id|>assistant<|end_header_id|>\\n\\n' }}{% endif %}",
    "{{- bos_token }}\n{%- if custom_tools is defined %}\n    {%- set tools = custom_tools %}\n{%- endif %}\n{%- if not date_string is defined %}\n    {%- set date_string = \"26 Jul 2024\" %}\n{%- endif %}\n{%- if not tools is defined %}\n    {%- set tools = none %}\n{%- endif %}\n{%- if messages[0]['role'] == 'system' %}\n    {%- set system_message = messages[0]['content']|trim %}\n    {%- set messages = messages[1:] %}\n{%- else %}\n    {%- set system_message = \"\" %}\n{%- endif %}\n{{- \"<|h|>system<|/h|>\\n\\n\" }}\n{%- if builtin_tools is defined or tools is not none %}\n    {{- \"Environment: ipython\\n\" }}\n{%- endif %}\n{{- \"Today Date: \" + date_string + \"\\n\\n\" }}\n{%- if tools is not none and not tools_in_user_message %}\n    {%- for t in tools %}\n        {{- t | tojson(indent=4) }}\n        {{- \"\\n\\n\" }}\n    {%- endfor %}\n{%- endif %}\n{{- system_message }}\n{{- \"<|eot|>\" }}\n{%- for message in messages %}\n    {{- '<|h|>' + message['role'] + '<|/h|>\\n\\n'+ message['content'] | trim + '<|eot|>' }}\n{%- endfor %}\n{%- if add_generation_prompt %}\n    {{- '<|h|>assistant<|/h|>\\n\\n' }}\n{%- endif %}\n",
    # Gemma: assistant is called model, no system
    "{{ bos_token }}{% if messages[0]['role'] == 'system' %}{{ raise_exception('System role not supported') }}{% endif %}{% for message in messages %}{% if (message['role'] == 'assistant') %}{% set role = 'model' %}{% else %}{% set role = message['role'] %}{% endif %}{{ '<start_of_turn>' + role + '\\n' + message['content'] | trim + '<end_of_turn>\\n' }}{% endfor %}{% if add_generation_prompt %}{{'<start_of_turn>model\\n'}}{% endif %}",
    "{%- if messages[0]['role'] == 'system' -%}\n    {%- if messages[0]['content'] is string -%}\n        {%- set first_user_prefix = messages[0]['content'] + '\n\n' -%}\n    {%- else -%}\n        {%- set first_user_prefix = messages[0]['content'][0]['text'] + '\n\n' -%}\n    {%- endif -%}\n    {%- set loop_messages = messages[1:] -%}\n{%- else -%}\n    {%- set first_user_prefix = \"\" -%}\n    {%- set loop_messages = messages -%}\n{%- endif -%}\n{%- for message in loop_messages -%}\n    {%- set role = 'model' if message['role'] == 'assistant' else message['role'] -%}\n    {{ '<turn>' + role + '\n' + (first_user_prefix if loop.first else \"\") }}\n    {%- if message['content'] is string -%}\n        {{ message['content'] | trim }}\n    {%- elif message['content'] is iterable -%}\n        {%- for item in message['content'] -%}{{ item['text'] | trim }}{%- endfor -%}\n    {%- else -%}\n        {{ raise_exception(\"Invalid content type\") }}\n    {%- endif -%}\n    {{ '</turn>\n' }}\n{%- endfor -%}\n{%- if add_generation_prompt -%}\n    {{'<turn>model\n'}}\n{%- endif -%}\n",
    # Phi, Zephyr, Falcon, OLMo, Vicuna, Alpaca
    "{% for m in messages %}{% if m['role'] == 'system' %}{{'<|system|>\n' + m['content'] + '<|end|>\n'}}{% elif m['role'] == 'user' %}{{'<|user|>\n' + m['content'] + '<|end|>\n'}}{% else %}{{'<|assistant|>\n' + m['content'] + '<|end|>\n'}}{% endif %}{% endfor %}{% if add_generation_prompt %}{{ '<|assistant|>\n' }}{% else %}{{ eos_token }}{% endif %}",
    "{% for message in messages %}\n{% if message['role'] == 'user' %}\n{{ '<|user|>\n' + message['content'] + eos_token }}\n{% elif message['role'] == 'system' %}\n{{ '<|system|>\n' + message['content'] + eos_token }}\n{% elif message['role'] == 'assistant' %}\n{{ '<|assistant|>\n'  + message['content'] + eos_token }}\n{% endif %}\n{% if loop.last and add_generation_prompt %}\n{{ '<|assistant|>' }}\n{% endif %}\n{% endfor %}",
    "{% for message in messages %}{% if not loop.first %}{{ '\n' }}{% endif %}{{ message['role']|capitalize + ': ' + message['content'] }}{% endfor %}{% if add_generation_prompt %}{{ '\nFalcon:' }}{% endif %}",
    "{{ bos_token }}{% for message in messages %}{% if message['role'] == 'assistant' %}{% if not loop.last %}{{ '<|assistant|>\n' + message['content'] + eos_token + '\n' }}{% else %}{{ '<|assistant|>\n' + message['content'] + eos_token }}{% endif %}{% else %}{{ '<|' ~ message['role'] ~ '|>\n' ~ message['content'] ~ '\n' }}{% endif %}{% if loop.last and add_generation_prompt %}{{ '<|assistant|>\n' }}{% endif %}{% endfor %}",
    "{% if messages[0].role == 'system' %}{{ messages[0].content ~ ' ' }}{% set rest = messages[1:] %}{% else %}{{ 'A chat. ' }}{% set rest = messages %}{% endif %}{% for m in rest %}{{ 'USER: ' if m.role == 'user' else 'ASSISTANT: ' }}{{ m.content.strip() }}{{ ' ' if m.role == 'user' else eos_token }}{% endfor %}{{ 'ASSISTANT:' if add_generation_prompt }}",
    "{% for m in messages %}{% if m.role == 'user' %}### Instruction:\n{{ m.content }}\n\n{% elif m.role == 'assistant' %}### Response:\n{{ m.content }}\n\n{% else %}{{ m.content }}\n\n{% endif %}{% endfor %}### Response:\n{# the answer #}",
    # Command, Granite, Yi, InternLM, Baichuan, Solar
    "{{ bos_token }}{% if messages[0]['role'] == 'system' %}{% set loop_messages = messages[1:] %}{% set system_message = messages[0]['content'] %}{% elif false == true %}{% set loop_messages = messages %}{% set system_message = 'never' %}{% else %}{% set loop_messages = messages %}{% set system_message = false %}{% endif %}{% if system_message != false %}{{ '<T><S>' + system_message + '</T>' }}{% endif %}{% for message in loop_messages %}{% set content = message['content'] %}{% if message['role'] == 'user' %}{{ '<T><U>' + content.strip() + '</T>' }}{% elif message['role'] == 'assistant' %}{{ '<T><A>'  + content.strip() + '</T>' }}{% endif %}{% endfor %}{% if add_generation_prompt %}{{ '<T><A>' }}{% endif %}",
    "{%- if tools %}\n    {{- '<|start_of_role|>available_tools<|end_of_role|>\n' }}\n    {%- for tool in tools %}\n    {{- tool | tojson(indent=4) }}\n    {%- if not loop.last %}{{- '\n\n' }}{%- endif %}\n    {%- endfor %}\n{%- endif %}\n{%- for message in messages %}\n    {%- if message['role'] == 'system' %}\n    {{- '<|r|>system<|/r|>' + message['content'] + '<|e|>\n' }}\n    {%- else %}\n    {{- '<|r|>' ~ message['role'] ~ '<|/r|>' ~ message['content'] ~ '<|e|>\n' }}\n    {%- endif %}\n    {%- if loop.last and add_generation_prompt %}\n    {{- '<|r|>assistant<|/r|>' }}\n    {%- endif %}\n{%- endfor %}",
    "{% set ns = namespace(sys='', n=0) %}{% for m in messages %}{% if m.role == 'system' %}{% set ns.sys = ns.sys + m.content %}{% endif %}{% set ns.n = ns.n + m.content|length %}{% endfor %}{{ ns.sys }}|{{ ns.n }}|{{ messages|length }}",
    # DeepSeek
    "{% if not add_generation_prompt is defined %}{% set add_generation_prompt = false %}{% endif %}{% set ns = namespace(is_first=false, is_tool=false, is_output_first=true, system_prompt='', is_first_sp=true) %}{%- for message in messages %}{%- if message['role'] == 'system' %}{%- if ns.is_first_sp %}{% set ns.system_prompt = ns.system_prompt + message['content'] %}{% set ns.is_first_sp = false %}{%- else %}{% set ns.system_prompt = ns.system_prompt + '\\n\\n' + message['content'] %}{%- endif %}{%- endif %}{%- endfor %}{{ bos_token }}{{ ns.system_prompt }}{%- for message in messages %}{%- if message['role'] == 'user' %}{%- set ns.is_tool = false -%}{{'<｜User｜>' + message['content']}}{%- endif %}{%- if message['role'] == 'assistant' and 'tool_calls' in message %}{%- for tool in message['tool_calls'] %}{{ tool }}{%- endfor %}{%- elif message['role'] == 'assistant' %}{%- set content = message['content'] %}{% if '</think>' in content %}{% set content = content.split('</think>')[-1] %}{% endif %}{{'<｜Assistant｜>' + content + '<｜end▁of▁sentence｜>'}}{%- endif %}{%- endfor -%}{% if add_generation_prompt and not ns.is_tool %}{{'<｜Assistant｜><think>\\n'}}{% endif %}",
    # Qwen3: thinking kept after the last question only
    "{%- if messages[0].role == 'system' %}\n    {{- '<|im_start|>system\\n' + messages[0].content + '<|im_end|>\\n' }}\n{%- endif %}\n{%- set ns = namespace(multi_step_tool=true, last_query_index=messages|length - 1) %}\n{%- for message in messages[::-1] %}\n    {%- set index = (messages|length - 1) - loop.index0 %}\n    {%- if ns.multi_step_tool and message.role == \"user\" and message.content is string and not(message.content.startswith('<tool_response>') and message.content.endswith('</tool_response>')) %}\n        {%- set ns.multi_step_tool = false %}\n        {%- set ns.last_query_index = index %}\n    {%- endif %}\n{%- endfor %}\n{%- for message in messages %}\n    {%- if message.content is string %}\n        {%- set content = message.content %}\n    {%- else %}\n        {%- set content = '' %}\n    {%- endif %}\n    {%- if (message.role == \"user\") or (message.role == \"system\" and not loop.first) %}\n        {{- '<|im_start|>' + message.role + '\\n' + content + '<|im_end|>' + '\\n' }}\n    {%- elif message.role == \"assistant\" %}\n        {%- set reasoning_content = '' %}\n        {%- if message.reasoning_content is string %}\n            {%- set reasoning_content = message.reasoning_content %}\n        {%- else %}\n            {%- if '</think>' in content %}\n                {%- set reasoning_content = content.split('</think>')[0].rstrip('\\n').split('<think>')[-1].lstrip('\\n') %}\n                {%- set content = content.split('</think>')[-1].lstrip('\\n') %}\n            {%- endif %}\n        {%- endif %}\n        {%- if loop.index0 > ns.last_query_index and (loop.last or (not loop.last and reasoning_content)) %}\n            {{- '<|im_start|>' + message.role + '\\n<think>\\n' + reasoning_content.strip('\\n') + '\\n</think>\\n\\n' + content.lstrip('\\n') }}\n        {%- else %}\n            {{- '<|im_start|>' + message.role + '\\n' + content }}\n        {%- endif %}\n        {{- '<|im_end|>\\n' }}\n    {%- endif %}\n{%- endfor %}\n{%- if add_generation_prompt %}\n    {{- '<|im_start|>assistant\\n' }}\n    {%- if enable_thinking is defined and enable_thinking is false %}\n        {{- '<think>\\n\\n</think>\\n\\n' }}\n    {%- endif %}\n{%- endif %}",
    "{% for m in messages %}{{ m.role }}: {{ m.content }}\n{% endfor %}{% if enable_thinking | default(true) %}assistant: <think>\n{% else %}assistant: <think></think>\n{% endif %}",
    "{%- set thinking = enable_thinking if enable_thinking is defined else reasoning_mode == 'on' -%}{{ '/think' if thinking else '/no_think' }}{% for m in messages %}|{{ m.content|trim|e }}{% endfor %}",
    # macros, call, filter blocks, generation
    "{% macro turn(role, text, end='\\n') -%}\n  <{{ role }}>{{ text|trim }}</{{ role }}>{{ end }}\n{%- endmacro %}\n{% for m in messages %}{{ turn(m.role, m.content) }}{% endfor %}{{ turn('assistant', '', end='') }}",
    "{%- macro render(content) -%}{%- if content is string -%}{{ content }}{%- else -%}{%- for part in content -%}{{ part.text }}{%- endfor -%}{%- endif -%}{%- endmacro -%}{%- for m in messages -%}{{ '[' ~ m.role ~ '] ' ~ render(m.content) ~ '\n' }}{%- endfor -%}",
    "{% macro box(n) %}{{ '=' * n }}{{ caller(n) }}{{ '=' * n }}{% endmacro %}{% for m in messages %}{% call(k) box(loop.index) %}{{ m.content }}{{ k }}{% endcall %}{% endfor %}",
    "{% for m in messages %}{% if m.role == 'assistant' %}{% generation %}{{ m.content }}{{ eos_token }}{% endgeneration %}{% else %}{{ m.content }}\n{% endif %}{% endfor %}",
    "{% filter upper %}{% for m in messages %}{{ m.content }} {% endfor %}{% endfilter %}",
    "{% set body %}{% for m in messages %}{{ m.content }};{% endfor %}{% endset %}{{ body|length }}:{{ body|trim(';') }}",
    "{% with sep = '--' %}{% for m in messages %}{{ m.content }}{{ sep if not loop.last }}{% endfor %}{% endwith %}{{ sep is defined }}",
    # loops
    "{% for m in messages %}{{ loop.index }}{{ loop.index0 }}{{ loop.revindex }}{{ loop.revindex0 }}{{ loop.first }}{{ loop.last }}{{ loop.length }}{{ loop.cycle('x', 'y') }}{{ loop.changed(m.role) }}{{ loop.previtem.role if loop.previtem is defined }}{{ loop.nextitem.role if loop.nextitem is defined else '.' }}\n{% else %}empty{% endfor %}",
    "{% for m in messages %}{% if m.role == 'system' %}{% continue %}{% endif %}{% if loop.index > 2 %}{% break %}{% endif %}{{ m.content }}{% endfor %}",
    "{% for i in range(0, messages|length, 2) %}{{ messages[i].role }}{% if i + 1 < messages|length %}+{{ messages[i + 1].role }}{% endif %} {% endfor %}",
    "{% for role, group in [('user', messages|selectattr('role', '==', 'user')|list), ('rest', messages|rejectattr('role', '==', 'user')|list)] %}{{ role }}={{ group|length }}{{ group|map(attribute='content')|join('&') }} {% endfor %}",
    "{% for m in messages %}{% for k, v in m.items() %}{{ k }}:{{ v|tojson }}{{ ', ' if not loop.last }}{% endfor %}\n{% endfor %}",
    "{{ messages | tojson }}\n{{ messages | tojson(indent=2) }}",
    "{{ messages|map(attribute='role')|unique|sort|join(',') }} {{ messages|map(attribute='content')|map('length')|sum }} {{ messages|length }}{{ (messages|first).role }}",
    # white space
    "{%- for m in messages -%}\n\n  {{- m.content -}}\n\n{%- endfor -%}\n\n  end  \n",
    "  {% for m in messages %}  \n    {{ m.content }}\n  {% endfor %}\n\tx {% if true %} \n y {% endif %}\n",
    "a\r\n{% for m in messages %}\r\n{{ m.content }}\r\n{% endfor %}\r\nb\r\n",
    "{# one #}\n{#- two -#}\n  x {%+ if true %}y{% endif +%}\nz {{ messages|length }} \n\n",
    "{% raw %}{{ not rendered }} {% if %}{% endraw %}{{ messages[0].content }}",
    "{% for m in messages %}{{ '{{' }}{{ m.content }}{{ '}}' }}{% endfor %}{{ '%}' }}",
    # undefined, none, conditions
    "{{ nothing }}{{ nothing is defined }}{{ messages[0].missing }}{{ messages[0]['missing'] is none }}{{ messages[99] is undefined }}{{ tools is none }}{{ 'x' if nothing }}{{ nothing|default('d') }}{{ none|default('d', true) }}",
    "{% if tools %}{{ tools[0].function.name }}{% endif %}{% if documents is not none and documents %}{{ documents[0] }}{% endif %}{% if not (tools and nothing.x) %}ok{% endif %}",
    "{{ messages[0].missing.deeper }}",
    "{% for m in messages %}{% if m.role not in ['user', 'assistant'] %}{{ raise_exception('Only user and assistant roles are supported, got ' + m.role) }}{% endif %}{{ m.content }}{% endfor %}",
    "{% if (messages|length) % 2 == 0 %}{{ raise_exception('odd number expected') }}{% endif %}{{ messages[-1]['content'] }}",
    # text
    "{% for m in messages %}{{ m.content|upper|lower|title }}|{{ m.content.split()|join('_') }}|{{ m.content[:3] }}|{{ m.content[::-1] }}|{{ m.content|replace('a', 'A') }}|{{ m.content.count('a') }}|{{ m.content.find('b') }}\n{% endfor %}",
    "{% for m in messages %}{{ m.content|indent(2) }}|{{ m.content|truncate(9, true, '~', 0) }}|{{ m.content|wordcount }}|{{ '%s has %d' % (m.role, m.content|length) }}|{{ '{}-{}'.format(m.role, loop.index) }}|{{ m.content|list|length }}\n{% endfor %}",
    "{% for m in messages %}{% set parts = m.content.rsplit(' ', 1) %}{{ parts }}{{ m.content.partition('=') }}{{ m.content.splitlines() }}{{ m.content.strip().startswith(('W', 'h')) }}{{ 'think' in m.content }}\n{% endfor %}",
    "{{ strftime_now is defined }}{{ strftime_now('%%') }}{% if messages[0].role == 'system' and messages[0].content|trim|length > 3 %}long{% endif %}",
    "{% set names = {'user': 'Human', 'assistant': 'AI'} %}{% for m in messages %}{{ names.get(m.role, m.role|title) }}: {{ m.content }}\n{% endfor %}{{ names['assistant'] }}:",
    "{% set x = dict(a=1, **{'b': [1, 2.0, none, true]}) %}{{ x }}{{ x.items()|list }}{{ x.b[1:] }}{{ x|length }}{{ 'b' in x }}{{ [1] + [2] }}{{ (1, 'a') }}{{ 7 // 2 }}{{ -7 % 3 }}{{ 2 ** 5 }}{{ 1 / 4 }}",
    # the form of gpt-oss, SmolLM3 and others: sections made of settings
    "{%- set effort = reasoning_effort if reasoning_effort is defined else 'medium' -%}\n{{- '<|start|>system<|message|>Reasoning: ' ~ effort ~ '<|end|>' -}}\n{%- for m in messages -%}\n  {%- if m.role == 'system' -%}\n    {{- '<|start|>developer<|message|># Instructions\\n\\n' + m.content + '<|end|>' -}}\n  {%- elif m.role == 'assistant' and loop.last -%}\n    {{- '<|start|>assistant<|channel|>final<|message|>' + m.content + '<|return|>' -}}\n  {%- else -%}\n    {{- '<|start|>' + m.role + '<|message|>' + m.content + '<|end|>' -}}\n  {%- endif -%}\n{%- endfor -%}\n{%- if add_generation_prompt -%}<|start|>assistant{%- endif -%}\n",
    "{%- if messages and messages[0]['role'] == 'system' -%}{%- set sys = messages[0]['content'] -%}{%- set custom = sys.replace('/no_think', '').replace('/think', '').rstrip() -%}{%- set off = '/no_think' in sys -%}{%- else -%}{%- set custom = '' -%}{%- set off = not (enable_thinking | default(true)) -%}{%- endif -%}[{{ custom }}][{{ 'off' if off else 'on' }}]{% for m in messages if m.role != 'system' %}\n{{ m.role }}> {{ m.content }}{% endfor %}",
]

# One construct each; the conversation is the fourth.
CONSTRUCTS = pathlib.Path(__file__).with_name("template_constructs.txt").read_text(encoding="utf-8").split("\n")


def render(template, variables):
    try:
        return chat_template_utils._compile_jinja_template(template).render(**variables)
    except Exception:
        return None


def rows(template, talks, settings):
    for talk in talks:
        for extra in settings:
            yield [talk, extra, render(template, {**BASE, **extra, "messages": TALKS[talk]})]


VALUES = {"n": 7, "f": 2.5, "l": [3, 1, 2], "d": {"b": 1, "a": [1, 2.0, None, True, "x'y"], "c": {"k": "v"}}, "s": "Hello, World", "u": "Straße ÉCOLE ﬁ İ ΣΑΣ",
          "e": "", "z": 0, "w": "  a b\tc \n"}
assert len(TEMPLATES) >= 60, len(TEMPLATES)
with open(HERE / "templates.jsonl", "w", encoding="utf-8") as out:
    write = lambda value: out.write(json.dumps(value, ensure_ascii=False, separators=(",", ":")) + "\n")
    write({"talks": TALKS, "base": BASE, "values": VALUES})
    for template in TEMPLATES:
        settings = [{}, {"add_generation_prompt": False}] + [{"enable_thinking": on} for on in (False, True) if "enable_thinking" in template]
        write([template, list(rows(template, range(len(TALKS)), settings))])
    for construct in CONSTRUCTS:
        if construct: write([json.loads(f'"{construct}"'), [[3, "values", render(json.loads(f'"{construct}"'), {**BASE, **VALUES, "messages": TALKS[3]})]]])
print(len(TEMPLATES), "templates,", len(CONSTRUCTS), "constructs")
