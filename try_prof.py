import time, torch, sys
torch.set_num_threads(int(sys.argv[1]))
from text2sql.serving.loading import load_served
from text2sql.serving.batch import Batch
from text2sql.serving.sequences import Sequence, choose
from text2sql.serving.engine import Options
m,t=load_served("assets/tiny-mistral")
print(m.config._attn_implementation)
with torch.inference_mode():
  for B in (1,4,16):
    b=Batch(m,16)
    ps=[list(range(10+i,60+i)) for i in range(B)]
    sq=[Sequence(p,Options(),None) for p in ps]
    t0=time.perf_counter(); lg=b.join(sq); tj=time.perf_counter()-t0
    for s,c in zip(sq,choose(lg,sq)): s.tokens.append(c)
    ts=[];tc=[]
    for _ in range(40):
        t0=time.perf_counter(); lg=b.step(); t1=time.perf_counter(); c=choose(lg,sq); t2=time.perf_counter()
        ts.append(t1-t0); tc.append(t2-t1)
        for s,x in zip(sq,c): s.tokens.append(x)
    ts.sort();tc.sort()
    print(B,"join",tj*1e3,"step median",ts[20]*1e3,"min",ts[0]*1e3,"choose",tc[20]*1e3)
  from torch.profiler import profile, ProfilerActivity
  with profile(activities=[ProfilerActivity.CPU]) as p:
    for _ in range(10):
        c=choose(b.step(),sq)
        for s,x in zip(sq,c): s.tokens.append(x)
  print(p.key_averages().table(sort_by="self_cpu_time_total",row_limit=14,max_name_column_width=40))
