import asyncio, time, sys, json, torch
from text2sql.serving.transformers_engine import TransformersEngine
from text2sql.serving.engine import Options
from text2sql.serving.scheduler import Limits
from text2sql.data.prompt import render_prompt
from text2sql.config_file import load_settings
from text2sql.data.load import load_rows
from pathlib import Path
threads=int(sys.argv[1]); torch.set_num_threads(threads)
s=load_settings(Path("configs/tiny.yaml"),["data.synthetic.rows=200"])
rows=load_rows(s.data)
prompts=[render_prompt(s.data.prompt_template,c,q) for c,q in zip(rows["context"][:],rows["question"][:])]
async def main():
    async with TransformersEngine("assets/tiny-mistral") as e:
        from text2sql.training.decoding import generate_tokens
        m,t=e._scheduler._batch.model,e._tokenizer
        await e.generate(prompts[:4],Options(max_new_tokens=8))
        N=96
        t0=time.time(); want=[]
        for p in prompts[:32]:
            want.append(t.decode(generate_tokens(m,t,[p],128,1,"")[0],skip_special_tokens=True).strip())
        one=(time.time()-t0)/32
        from text2sql.data.prompt import encode_prompts
        t0=time.time()
        for p in prompts[:32]:
            ids=torch.tensor(encode_prompts(t,[p]))
            with torch.inference_mode(): m.generate(input_ids=ids,attention_mask=torch.ones_like(ids),max_new_tokens=128,do_sample=False)
        gen=(time.time()-t0)/32
        sem=asyncio.Semaphore(16)
        async def ask(p):
            async with sem: return (await e.generate([p],Options(max_new_tokens=128)))[0][0]
        t0=time.time(); got=await asyncio.gather(*map(ask,prompts[:N])); ours=(time.time()-t0)/N
        print("threads",threads,"same",sum(a==b.text for a,b in zip(want,got)),"one ms",one*1e3,"generate ms",gen*1e3,"batched ms",ours*1e3,"ratio",gen/ours, "tok", sum(g.prompt_tokens for g in got)/N, sum(g.completion_tokens for g in got)/N)
asyncio.run(main())
